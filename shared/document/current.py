"""Which document is current, also after app code has failed.

Bokeh's own `patch_curdoc` puts back what was current only where the code inside of it succeeds. Each callback that
raises leaves its document current, for as long as the process lives: `curdoc()` then means a stranger's document, or
fails once that one is gone, and the list of them grows with every failure.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

import bokeh.application.handlers.code
import bokeh.document.callbacks
import bokeh.io.doc
from bokeh.document.locking import UnlockedDocumentProxy

__all__ = ["install", "invoke_with_curdoc", "patch_curdoc"]

T = TypeVar("T")

_changing = threading.Lock()
"""Held for each change of the process's list."""


def _begin_anew() -> None:
    """A thread that is not there any more may have held the lock when this child was forked."""
    global _changing
    _changing = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_begin_anew)

_Entry: TypeAlias = "weakref.ReferenceType[Any]"


def install() -> None:
    """Make Bokeh put back what was current whatever happens; harmless twice."""
    for module in (bokeh.io.doc, bokeh.application.handlers.code):
        module.patch_curdoc = patch_curdoc  # type: ignore[attr-defined]
    bokeh.document.callbacks.invoke_with_curdoc = invoke_with_curdoc


class _Here(threading.local):
    """What this thread has made current."""

    entry: _Entry | None = None


_here = _Here()


def invoke_with_curdoc(doc: Any, f: Callable[[], T]) -> T:
    """Stands in for `bokeh.document.callbacks.invoke_with_curdoc`.

    One change of one model asks for the same document four times, one within the other.
    """
    patched: list[_Entry] | ContextVar[tuple[_Entry, ...]] = bokeh.io.doc._PATCHED_CURDOCS
    if getattr(f, "nolock", False):
        doc = UnlockedDocumentProxy(doc)
    elif isinstance(patched, list):
        return _invoke(patched, weakref.ref(doc), f)
    with patch_curdoc(doc):
        return f()


def _invoke(patched: list[_Entry], entry: _Entry, f: Callable[[], T]) -> T:
    """As with `_pushed`, but nothing is to be done where this thread has made that document current already."""
    before = _here.entry
    if before is entry and patched and patched[-1] is entry:
        return f()
    with _changing:
        patched.append(entry)
    _here.entry = entry
    try:
        return f()
    finally:
        _here.entry = before
        _drop_last(patched, entry)


@contextmanager
def patch_curdoc(doc: Any) -> Iterator[None]:
    """Stands in for `bokeh.io.doc.patch_curdoc`."""
    patched: list[_Entry] | ContextVar[tuple[_Entry, ...]] = bokeh.io.doc._PATCHED_CURDOCS
    entry = weakref.ref(doc)
    del doc  # what is current may go away; Bokeh then says so
    with _pushed(patched, entry) if isinstance(patched, list) else _set(patched, entry):
        yield


@contextmanager
def _pushed(patched: list[_Entry], entry: _Entry) -> Iterator[None]:
    """A list, as of Bokeh 3.9: the process's."""
    with _changing:
        patched.append(entry)
    try:
        yield
    finally:
        _drop_last(patched, entry)


def _drop_last(patched: list[_Entry], entry: _Entry) -> None:
    # The last of its own: another thread may have added one since. Two threads that look for theirs at once would
    # delete what is not theirs, or run past the end, and the callback that ends would fail.
    with _changing:
        if patched[-1] is entry:
            patched.pop()
        else:
            del patched[len(patched) - 1 - next(i for i, other in enumerate(reversed(patched)) if other is entry)]


@contextmanager
def _set(patched: ContextVar[tuple[_Entry, ...]], entry: _Entry) -> Iterator[None]:
    """A context variable, as of what comes after it: each task's and each thread's own."""
    before = patched.set((*patched.get(()), entry))
    try:
        yield
    finally:
        patched.reset(before)
