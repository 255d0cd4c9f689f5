"""What Panel's objects know and no model shows, written down with a property of their models that is not shown.

A button's `clicks`, the `object` of a pane and the messages of a chat are parameters alone: Bokeh's models have at most
what was made of them. A session that is stored keeps those values in the `tags` of the model, which snapshot and
journal have as they have all properties. Viewers do not get them.

A value that is small is written down when it changes, under the same hold as what it changes; a long one, such as a
text that grows word by word, after a moment.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from bokeh.document import Document
from bokeh.document.events import ModelChangedEvent
from bokeh.model import Model
from panel.chat import ChatFeed, ChatMessage
from panel.io.state import state
from panel.pane.base import PaneBase
from panel.reactive import Syncable

from aperture.worker.session.framework import StoredSession

__all__ = ["Memory", "recall", "shown"]

_KEY = "aperture-panel"

_SMALL = 200
"""Characters of a text that is written down at once."""

_LONGEST = 1_000_000
"""Characters of one value; a longer one is not kept."""

_PAUSE = 100
"""Milliseconds in which changes of what is long gather."""


def shown(document: Document) -> Iterator[tuple[Syncable, Model]]:
    """Each Panel object that has a model in the document, with the model."""
    for ref, (view, _, shown_in, _) in list(state._views.items()):
        if shown_in is not document:
            continue
        for component in view.select(Syncable) if hasattr(view, "select") else [view]:
            model, _ = getattr(component, "_models", {}).get(ref, (None, None))
            if model is not None:
                yield component, model


def recall(model: Model) -> Mapping[str, Any]:
    """What was written down of the object that has this model, by the parameter's name."""
    for tag in model.tags:
        if isinstance(tag, dict) and _KEY in tag:
            found: Mapping[str, Any] = tag[_KEY]
            return found
    return {}


class Memory:
    """Writes down what the objects of one session know.

    Args:
        session: that is stored; held weakly, as its objects hold this.
    """

    def __init__(self, session: StoredSession) -> None:
        self._session = weakref.ref(session)
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self._due: dict[str, Callable[[], None]] = {}
        """By the model's id, what is to be written down in a moment."""

    def watch(self) -> None:
        """Watch all objects that there are now. Those that are watched already are not watched twice."""
        session = self._session()
        if session is None:
            return
        for component, model in shown(session.document):
            if component in self._watched:
                continue
            self._watched.add(component)
            write = partial(self._write, weakref.ref(component), weakref.ref(model))
            names = _own_names(component)
            if names:
                _watch(component, partial(self._changed, model.id, write), names)
            if isinstance(component, ChatFeed):
                self._watch_messages(component, model.id, write)

    def _watch_messages(self, feed: ChatFeed, model_id: str, write: Callable[[], None]) -> None:
        for message in feed.objects:
            if message not in self._watched:
                self._watched.add(message)
                _watch(message, partial(self._changed, model_id, write), ["object"])

    def _changed(self, model_id: str, write: Callable[[], None], *events: Any) -> None:
        session = self._session()
        if session is None or session.destroyed:
            return
        for event in events:
            if isinstance(event.obj, ChatFeed):
                self._watch_messages(event.obj, model_id, write)
        if all(_is_small(event.new) for event in events):
            write()
        elif model_id not in self._due:
            self._due[model_id] = write
            session.document.add_timeout_callback(partial(self._write_due, model_id), _PAUSE)

    def _write_due(self, model_id: str) -> None:
        self._due.pop(model_id)()

    def _write(self, component_of: Callable[[], Any], model_of: Callable[[], Any]) -> None:
        session, component, model = self._session(), component_of(), model_of()
        if session is None or component is None or model is None or model.document is not session.document:
            return
        others = [tag for tag in model.tags if not (isinstance(tag, dict) and _KEY in tag)]
        tags = [*others, {_KEY: dict(_known(component))}]
        callbacks = session.held.callbacks
        with callbacks.unnoticed():
            model.tags = tags
        callbacks.note(ModelChangedEvent(session.document, model, "tags", tags))


def _watch(watched: Any, changed: Callable[..., None], names: list[str]) -> None:
    # Before the app's own, of which one may fail: those that follow are not called then.
    watched.param._watch(changed, names, precedence=-1)


def _own_names(component: Syncable) -> list[str]:
    """The parameters of which the model has nothing that leads back."""
    names = ["clicks"] if "clicks" in component.param else []
    if isinstance(component, PaneBase | ChatFeed):
        names.append("objects" if isinstance(component, ChatFeed) else "object")
    return names


def _known(component: Syncable) -> Iterator[tuple[str, Any]]:
    for name in _own_names(component):
        value = getattr(component, name)
        if name == "objects":
            yield name, [_message(message) for message in value if isinstance(message.object, str)]
        elif _is_plain(value):
            yield name, value


def _message(message: ChatMessage) -> dict[str, Any]:
    return {
        "object": message.object,
        "user": message.user,
        "avatar": message.avatar if isinstance(message.avatar, str) else "",
        "timestamp": message.timestamp.timestamp() if isinstance(message.timestamp, datetime) else None,
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < _LONGEST)


def _is_small(value: Any) -> bool:
    return _is_plain(value) and len(str(value)) <= _SMALL
