"""The ids of a session's models, for the modules of the worker; see `aperture.document.ids`."""

from __future__ import annotations

from aperture.document.ids import IdSequence, install, make_id

__all__ = ["IdSequence", "install", "make_id"]
