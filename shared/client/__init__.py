"""A client of Bokeh sessions that works anywhere: blocking, or on a running event loop.

`pull_session`, `push_session`, `show_session` and `ClientSession` have the signatures of `bokeh.client`, and `connect`
is for code with an event loop. Both work with Aperture and with `bokeh serve`. The errors are in `aperture.errors`,
under `ClientError`.
"""

from aperture.client.async_session import AsyncSession, connect
from aperture.client.blocking_session import (
    DEFAULT_SESSION_ID,
    ClientSession,
    ErrorReason,
    pull_session,
    push_session,
    show_session,
)
from aperture.client.urls import server_url_for_websocket_url, websocket_url_for_server_url

__all__ = [
    "DEFAULT_SESSION_ID",
    "AsyncSession",
    "ClientSession",
    "ErrorReason",
    "connect",
    "pull_session",
    "push_session",
    "server_url_for_websocket_url",
    "show_session",
    "websocket_url_for_server_url",
]
