"""Which document is current: in each context its own, and also after app code has failed.

Bokeh 3.9 and 3.10 have one list of current documents for the whole process. With app code in several threads, one
session's `curdoc()` would be another one's document. Here each context has its own, as Bokeh's main branch has it: a
callback, a task that it starts, and a thread of the worker that runs it.

Bokeh's own `patch_curdoc` puts back what was current only where the code inside of it succeeds. Each callback that
raises leaves its document current, for as long as the process lives: `curdoc()` then means a stranger's document, or
fails once that one is gone, and the list of them grows with every failure.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

import bokeh.application.handlers.code
import bokeh.document.callbacks
import bokeh.io.doc
from bokeh.document.locking import UnlockedDocumentProxy

from aperture.bokeh_versions import current_documents
from aperture.inheritance import end_if_forked

__all__ = ["install", "invoke_with_curdoc", "patch_curdoc"]

T = TypeVar("T")

_Entry: TypeAlias = "weakref.ReferenceType[Any]"
_Entries: TypeAlias = tuple[_Entry, ...]


class _PatchedCurdocs(MutableSequence[_Entry]):
    """Stands in for the list of Bokeh. Each context reads and changes its own alone."""

    def __init__(self) -> None:
        self.variable: ContextVar[_Entries] = ContextVar("aperture_patched_curdocs", default=())

    def __len__(self) -> int:
        return len(self.variable.get())

    def __getitem__(self, place: Any) -> Any:
        return self.variable.get()[place]

    def __setitem__(self, place: Any, entry: Any) -> None:
        entries = list(self.variable.get())
        entries[place] = entry
        self.variable.set(tuple(entries))

    def __delitem__(self, place: Any) -> None:
        entries = list(self.variable.get())
        del entries[place]
        self.variable.set(tuple(entries))

    def insert(self, index: int, value: _Entry) -> None:
        entries = list(self.variable.get())
        entries.insert(index, value)
        self.variable.set(tuple(entries))


_patched = _PatchedCurdocs()


def install() -> None:
    """Make Bokeh restore the current document also after an error, and keep it for each context. Idempotent."""
    doc: Any = bokeh.io.doc
    if isinstance(doc._PATCHED_CURDOCS, list):
        doc._PATCHED_CURDOCS = _patched
    for module in (bokeh.io.doc, bokeh.application.handlers.code):
        module.patch_curdoc = patch_curdoc  # type: ignore[attr-defined]
    bokeh.document.callbacks.invoke_with_curdoc = invoke_with_curdoc


def invoke_with_curdoc(doc: Any, f: Callable[[], T]) -> T:
    """Stands in for `bokeh.document.callbacks.invoke_with_curdoc`.

    One change of one model asks for the same document four times, one within the other.
    """
    if getattr(f, "nolock", False):
        doc = UnlockedDocumentProxy(doc)
    entry, variable = weakref.ref(doc), _variable()
    before = variable.get(())
    if before and before[-1] is entry:
        return f()
    variable.set((*before, entry))
    try:
        return f()
    except BaseException as problem:
        end_if_forked(problem)
        raise
    finally:
        _drop_last(variable, entry)


@contextmanager
def patch_curdoc(doc: Any) -> Iterator[None]:
    """Stands in for `bokeh.io.doc.patch_curdoc`."""
    variable, entry = _variable(), weakref.ref(doc)
    del doc  # what is current may go away; Bokeh then says so
    variable.set((*variable.get(()), entry))
    try:
        yield
    except BaseException as problem:
        end_if_forked(problem)
        raise
    finally:
        _drop_last(variable, entry)


def _variable() -> ContextVar[_Entries]:
    return current_documents(_patched.variable)


def _drop_last(variable: ContextVar[_Entries], entry: _Entry) -> None:
    """The last of its own: two uses of one context may overlap without being inside of each other."""
    entries = variable.get(())
    if entries and entries[-1] is entry:
        variable.set(entries[:-1])
    elif entry in entries:
        place = len(entries) - 1 - next(i for i, other in enumerate(reversed(entries)) if other is entry)
        variable.set((*entries[:place], *entries[place + 1 :]))
