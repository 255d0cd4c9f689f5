"""What the weather app does around its sessions: it logs them, and how long each stayed.

A hook gets the same context object for one session from beginning to end, so an attribute put there when the session
begins can be read when it ends.
"""

import logging
from time import monotonic

log = logging.getLogger("bokeh.weather")


def on_server_loaded(server_context):
    """Runs once in each process, before its first session."""
    log.info("weather: loaded")


def on_session_created(session_context):
    """Runs before the session's `main.py`."""
    session_context.weather_opened_at = monotonic()
    log.info("weather: a session begins")


def on_session_destroyed(session_context):
    """Runs after the last page of the session is gone and its lifetime is over."""
    seconds = monotonic() - session_context.weather_opened_at
    log.info("weather: a session ends after %.0f s", seconds)
