"""Model ids that belong to a session.

Bokeh numbers models per process: `p1001` means one model here and another one in the next process, so a page that
comes back to a rebuilt session could change the wrong model. Here each session has a prefix of its own, made from its
id, and a count from its start. The same app code gives the same ids again wherever the session is built.

`install` puts our `make_id` in the place of Bokeh's wherever Bokeh holds a reference to it. Which session is meant is a
context variable, so it follows callbacks, tasks and `asyncio.to_thread`. Models made outside any session (at import, in
an app's own thread) get a prefix that is random per process.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any
from weakref import WeakValueDictionary

import bokeh.document.document
import bokeh.model.model
import bokeh.util.serialization
from bokeh.model import Model

__all__ = ["IdSequence", "install"]

_FIRST = 1001
"""Bokeh's own first number; keeping it makes our ids read like Bokeh's."""

_PREFIX_LENGTH = 10
"""Hex digits of the prefix: 40 bits, so two sessions that share a page by accident do not share ids."""


class IdSequence:
    """The ids of one session's models: `p<prefix>-1001`, `p<prefix>-1002`, …"""

    __slots__ = ("_count", "_prefix", "made")

    def __init__(self, seed: str) -> None:
        digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).hexdigest()
        self._prefix = f"p{digest[:_PREFIX_LENGTH]}-"
        self._count = itertools.count(_FIRST)
        self.made: WeakValueDictionary[str, Model] | None = None
        """Notes the models that are made, while it is one."""

    def next(self) -> str:
        return f"{self._prefix}{next(self._count)}"

    def skip(self, taken: Iterable[str]) -> None:
        """Begin after these, as far as they are of this session: they were made before it was built again."""
        mine = [name[len(self._prefix) :] for name in taken if name.startswith(self._prefix)]
        highest = max((int(number) for number in mine if number.isdecimal()), default=0)
        self._count = itertools.count(max(highest + 1, next(self._count)))

    def enter(self) -> Token[IdSequence | None]:
        """As `active`, for those who bracket many small pieces of work: `leave` with what this returns."""
        return _current.set(self)

    @staticmethod
    def leave(token: Token[IdSequence | None]) -> None:
        """The end of what `enter` began."""
        _current.reset(token)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Models made in this context, and in tasks started from it, take their ids from here."""
        token = self.enter()
        try:
            yield
        finally:
            self.leave(token)


_bokehs_new: Any = Model.__new__
_current: ContextVar[IdSequence | None] = ContextVar("aperture_id_sequence", default=None)
_outside = IdSequence(os.urandom(16).hex())


def install() -> None:
    """Make Bokeh take model ids from the active session; harmless twice.

    Runs in each worker, after the fork, and in a client's process before its first session.
    """
    global _outside
    _outside = IdSequence(os.urandom(16).hex())
    for module in (bokeh.util.serialization, bokeh.model.model, bokeh.document.document):
        module.make_id = make_id  # type: ignore[attr-defined]
    Model.__new__ = _new  # type: ignore[method-assign,assignment]


def make_id() -> str:
    """Stands in for `bokeh.util.serialization.make_id`."""
    return (_current.get() or _outside).next()


def _new(cls: type[Model], *args: Any, **fields: Any) -> Model:
    """Stands in for `Model.__new__`: an id alone does not lead to a model that is in no document."""
    model: Model = _bokehs_new(cls, *args, **fields)
    sequence = _current.get()
    if sequence is not None and sequence.made is not None:
        sequence.made[model.id] = model
    return model
