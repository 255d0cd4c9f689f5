"""Aperture serves Bokeh applications from many processes behind one gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aperture.version import __version__

if TYPE_CHECKING:
    from aperture.app_state import session_state as session_state
    from aperture.gateway.embed import Server as Server

__all__ = ["Server", "__version__", "session_state"]


def __getattr__(name: str) -> Any:
    """Import what apps use when it is asked for: the command line and the supervisor need none of Bokeh for it."""
    if name == "session_state":
        from aperture.app_state import session_state

        return session_state
    if name == "Server":
        from aperture.gateway.embed import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
