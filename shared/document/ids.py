"""Model ids that belong to a session.

Bokeh numbers models per process: `p1001` means one model here and another one in the next process, so a page that
comes back to a rebuilt session could change the wrong model. Here each session has a prefix of its own, made from its
id, and a count from its start. The same app code gives the same ids again wherever the session is built.

The modules that an app's scripts run in are named in the same way. A class that a script defines has its module's name
in every message, and BokehJS takes definitions of classes from the first document alone: were the name another one in
each worker, a page could not read what the next one sends, and the next one not what the last one has stored.

`install` puts our `make_id` in the place of Bokeh's wherever Bokeh holds a reference to it. Which session is meant is a
context variable, so it follows callbacks, tasks and `asyncio.to_thread`. Models made outside any session (at import, in
an app's own thread) get a prefix that is random per process.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any
from weakref import WeakValueDictionary

import bokeh.model.model
import bokeh.util.serialization
from bokeh.application.handlers import code_runner
from bokeh.core.types import ID
from bokeh.model import Model
from bokeh.util.serialization import make_globally_unique_id

__all__ = ["IdSequence", "install"]

_FIRST = 1001
"""Bokeh's own first number; keeping it makes our ids read like Bokeh's."""

_PREFIX_LENGTH = 10
"""Hex digits of the prefix: 40 bits, so two sessions that share a page by accident do not share ids."""


_SCRIPT_LENGTH = 32
"""Hex digits, as many as Bokeh's own names have."""


class IdSequence:
    """The ids of one session's models: `p<prefix>-1001`, `p<prefix>-1002`, …

    Args:
        seed: the session's id.
        app: the session's app; two apps may use one id.
    """

    __slots__ = ("_app", "_count", "_prefix", "_scripts", "_seed", "made")

    def __init__(self, seed: str, app: str = "") -> None:
        self._seed = seed
        self._app = app
        self._scripts = itertools.count()
        digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).hexdigest()
        self._prefix = f"p{digest[:_PREFIX_LENGTH]}-"
        self._count = itertools.count(_FIRST)
        self.made: WeakValueDictionary[str, Model] | None = None
        """Notes the models that are made, while it is one."""

    def next(self) -> str:
        return f"{self._prefix}{next(self._count)}"

    def next_script(self) -> str:
        """What tells the module of the next script that this session runs from all others, in every worker the same."""
        named = f"{self._app}\t{self._seed}\t{next(self._scripts)}"
        return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:_SCRIPT_LENGTH]

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
    """Make Bokeh take model ids from the active session. Idempotent.

    Runs in each worker, after the fork, and in a client's process before its first session.
    """
    global _outside
    _outside = IdSequence(os.urandom(16).hex())
    # Not in `bokeh.document.document`, where callbacks get their ids: how many there are depends on how long things
    # take, and the models that follow must have the same ids in a session that is built again.
    for module in (bokeh.util.serialization, bokeh.model.model):
        module.make_id = make_id  # type: ignore[attr-defined]
    Model.__new__ = _new  # type: ignore[method-assign,assignment]
    code_runner.make_globally_unique_id = make_script_id  # type: ignore[attr-defined]


def make_id() -> str:
    """Stands in for `bokeh.util.serialization.make_id`."""
    return (_current.get() or _outside).next()


def make_script_id() -> ID:
    """Stands in for `bokeh.util.serialization.make_globally_unique_id`, where the module of a script is named."""
    sequence = _current.get()
    if sequence is not None:
        name = sequence.next_script()
        # While the session's last life here is still being taken apart, the name is taken.
        if f"bokeh_app_{name}" not in sys.modules:
            return ID(name)
    return make_globally_unique_id()


def _new(cls: type[Model], *args: Any, **fields: Any) -> Model:
    """Stands in for `Model.__new__`: an id alone does not lead to a model that is in no document."""
    model: Model = _bokehs_new(cls, *args, **fields)
    sequence = _current.get()
    if sequence is not None and sequence.made is not None:
        sequence.made[model.id] = model
    return model
