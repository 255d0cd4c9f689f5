"""What differs between the versions of Bokeh that Aperture runs with: 3.9, 3.10, and what is on Bokeh's main branch.

All of it is here, and decided by what is there, never by a version's number: a pre-release has some of a version, and
an organisation's own build any of it. `docs/compatibility.md` says what else the versions do differently and needs
nothing of us, as the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import bokeh.io.doc
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.model import Model

__all__ = ["current_documents", "new_model", "offer_locked_callback"]

M = TypeVar("M", bound=Model)


def current_documents(otherwise: ContextVar[Any]) -> ContextVar[Any]:
    """The variable that has the stack of current documents: Bokeh's own, on its main branch, with the same content.

    Args:
        otherwise: ours, where Bokeh has one list for the whole process, as 3.9 and 3.10 do.
    """
    patched: Any = bokeh.io.doc._PATCHED_CURDOCS
    return patched if isinstance(patched, ContextVar) else otherwise


def new_model(cls: type[M], model_id: ID) -> M:
    """A model as Bokeh's deserializer begins it: with its id, and without its constructor having run.

    Bokeh 3.10 has a method for it, so that a class may do it in its own way.
    """
    make: Callable[[ID], M] | None = getattr(cls, "_new", None)
    return cls.__new__(cls, id=model_id) if make is None else make(model_id)


def offer_locked_callback(method: Callable[..., Any]) -> None:
    """Give documents the method `locked_callback` where Bokeh, as on its main branch, does not. Idempotent."""
    if not hasattr(Document, "locked_callback"):
        Document.locked_callback = method  # type: ignore[attr-defined]
