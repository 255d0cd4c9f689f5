"""One place sets up logging, once per node and before the fork, so that every process writes alike.

The lines go where the root logger sends them; `aperture` and `bokeh` are the two loggers whose level the user sets.
"""

from __future__ import annotations

import logging

__all__ = ["TRACE", "configure", "level_number", "short_id"]

TRACE = 9
"""Below debug; Bokeh defines the same number and name."""

LOGGERS = ("aperture", "bokeh")


def level_number(name: str) -> int:
    """The number of a level by its lower-case name, `trace` included.

    Raises:
        KeyError: there is no such level.
    """
    return TRACE if name == "trace" else logging.getLevelNamesMapping()[name.upper()]


def configure(level: str, template: str, file: str | None = None) -> None:
    """Log from `level` on, one line per record. Runs in the supervisor, before the fork.

    Args:
        level: trace, debug, info, warning, error or critical.
        template: the line's format, as `logging.Formatter` takes it.
        file: appended to by all processes of the node; None writes to standard error.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is not one.
    """
    # Bokeh puts a handler on its own logger when it is imported, and a level if its environment names one, so its
    # import comes first and its basicConfig removes that handler again: no line appears twice.
    from bokeh.util.logconfig import basicConfig

    basicConfig(format=template, filename=file)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level_number(level))


def short_id(session_id: str) -> str:
    """As much of a session id as may be written down: whoever has the whole of it has the session."""
    return session_id[:8]
