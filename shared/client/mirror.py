"""A client's copy of a session's document: applies the server's messages, and reports local changes.

The models stay the same objects, also when the whole document is pulled again after a reconnect or a gap: an existing
model gets the server's values, so that the program's references and callbacks stay valid. The callbacks of one
message run after all of it is applied, and one that fails does not stop the others.

This is the only module of the client that touches Bokeh's internals.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from bokeh.document import Document
from bokeh.document.callbacks import invoke_with_curdoc
from bokeh.document.config import DocumentConfig
from bokeh.document.events import ColumnDataChangedEvent, DocumentChangedEvent, DocumentPatchedEvent
from bokeh.model import Model

from aperture.client.timers import Agenda
from aperture.document.applying import NamedModels, apply_event
from aperture.errors import ServerGarbled
from aperture.protocol.allowance import Allowance
from aperture.protocol.codec import Buffer, EncodedEvent, EventEncoder, decode_patch, encode_document
from aperture.protocol.decode import ValueDecoder
from aperture.protocol.messages import Message

__all__ = ["Change", "Mirror"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Change:
    """One local change.

    Args:
        event: Bokeh's own.
        encoded: the event, encoded when it happened.
        brings_back: whether it contains a model that has left the document before. If the server still has that model
            when it decodes the patch, it ignores the new values, so its removal must be in an earlier patch.
        columns: those that a change of columns has set. Bokeh's event has their names alone.
    """

    event: DocumentPatchedEvent
    encoded: EncodedEvent
    brings_back: bool = False
    columns: dict[str, Any] | None = None
    size: int = field(init=False)
    """Bytes."""
    losses: int = 0
    """How often a connection was lost while the change was in flight."""

    def __post_init__(self) -> None:
        self.size = len(self.encoded.json) + sum(len(buffer.data) for buffer in self.encoded.buffers)


READ_BUDGET = 4 * 1024 * 1024 * 1024
"""Bytes that decoding a server's messages may allocate in a minute, beyond an amount in proportion to them. A server's
documents may be large and inline; a viewer's messages are neither, so a worker allows less."""


class Mirror:
    """One document and its changes. Calls must be serialised, changes of the document included.

    Args:
        document: to be filled, or to be pushed.
        changed: called with each local change; the assignment raises what it raises.
        agenda: runs the document's timed callbacks.
    """

    def __init__(self, document: Document, changed: Callable[[Change], None], agenda: Agenda) -> None:
        self.document = document
        self._changed = changed
        self._agenda = agenda
        # An app may nest its own values as it likes, and have as many models; the program has asked for them.
        self._allowance = Allowance(READ_BUDGET, depth=sys.maxsize, properties=sys.maxsize, visits=sys.maxsize)
        self._encoder = EventEncoder(self._known, self._learned)
        self.attached = False
        self.filled = False
        """Whether it was ever attached: before that the document is not the session's."""

    # The document's changes

    def attach(self) -> None:
        """Listen to the document from now on. Idempotent."""
        if self.attached:
            return
        self.attached = self.filled = True
        callbacks = self.document.callbacks
        self._listeners = _Listeners.of(self.document)
        self._listeners.mirrors.append(self)
        callbacks.on_change_dispatch_to(self)
        # Bokeh keeps them in a set; their ids count up.
        for entry in sorted(callbacks.session_callbacks, key=lambda entry: (len(entry.id), entry.id)):
            self._agenda.add(entry)

    def detach(self) -> None:
        """Stop listening; the document stays the program's. Idempotent."""
        if not self.attached:
            return
        self.attached = False
        self._listeners.remove(self)
        self.document.remove_on_change(self)
        self._agenda.clear()

    def on_local_change(self, event: DocumentPatchedEvent) -> None:
        """Report a change of the document that did not come from this session's server."""
        encoded = self._encoder.encode(event)
        self._changed(Change(event, encoded, self._brings_back(encoded), _columns_of(event)))

    def _session_callback_added(self, event: Any) -> None:
        self._agenda.add(event.callback)

    def _session_callback_removed(self, event: Any) -> None:
        self._agenda.remove(event.callback)

    def _known(self, model: Model) -> bool:
        return model.document is self.document and model not in self.document.models._new_models

    def _brings_back(self, encoded: EncodedEvent) -> bool:
        seen = cast("Callable[[str], bool]", self.document.models.seen)  # whether it has left the document once
        return any(map(seen, encoded.introduced))

    def _learned(self, model: Model) -> None:
        self.document.models._new_models.discard(model)

    def _learn(self, models: Iterable[Model]) -> None:
        for model in models:
            self._learned(model)

    # What goes out whole

    def encoded_document(self) -> tuple[bytes, list[Buffer]]:
        """The content of a push, and the buffers beside it."""
        return encode_document(self.document, inline=False)

    def pushed(self) -> None:
        """Note that the server has all models."""
        self.document.models.flush_synced()

    # What comes in

    def apply(self, message: Message) -> None:
        """Apply a patch.

        Raises:
            Exception: it cannot be applied. The document may then be half changed, and must be pulled.
        """
        document, models = self.document, self.document.models
        created: list[Model] = []
        events = decode_patch(
            message,
            find=NamedModels(document).find,
            seen=models.seen,
            setter=self,
            created=created.append,
            allowance=self._allowance,
        )
        if events is None:
            log.debug("patch dropped: its model has left the document")
            return
        sent_messages = [event for event in events if event["kind"] == "MessageSent"]
        with self._callbacks_afterwards():
            for event in events:
                if event["kind"] != "MessageSent":
                    apply_event(document, event, self)
            if not self.attached or self._listeners.mirrors == [self]:
                self._learn(created)
        self._learn(created)  # after other sessions of the document have encoded them: their servers lack them
        for event in sent_messages:
            self._guarded(partial(apply_event, document, event, self))

    def replace(self, message: Message) -> None:
        """Replace the content of the document, in place, by that of the answer to a pull.

        Raises:
            ServerGarbled: it is not a document, or one that cannot be built here.
        """
        self._allowance.begin(message.size)
        reader = _InPlace(self.document, message.buffers, self, self._allowance)
        try:
            config, roots, title = reader.document(message.content)
            with self._callbacks_afterwards(), _frozen(self.document):
                for model, values in reader.updates:
                    self._update(model, values)
                self._set_roots(roots)
                self.document._config = config
                self.document.set_title(title, self)  # type: ignore[arg-type]
        except ServerGarbled:
            raise
        except Exception as problem:
            raise ServerGarbled(f"the server's document cannot be made here: {problem}") from problem
        self.document.models.flush_synced()

    def shares_roots_with(self, message: Message) -> bool:
        """Whether the answer to a pull has any root of this document; true if this one has none."""
        doc = message.content.get("doc") if isinstance(message.content, dict) else None
        roots = doc.get("roots") if isinstance(doc, dict) else None
        theirs = {root.get("id") for root in roots if isinstance(root, dict)} if isinstance(roots, list) else set()
        ours = {root.id for root in self.document.roots}
        return not ours or bool(ours & theirs)

    def _set_roots(self, roots: list[Model]) -> None:
        document = self.document
        setter: Any = self
        for root in [root for root in document._roots if root not in roots]:
            document.remove_root(root, setter)
        for root in roots:
            document.add_root(root, setter)
        document._roots[:] = roots

    def _update(self, model: Model, values: dict[str, Any]) -> None:
        setter: Any = self
        serialized = [name for name in model._property_values if model.lookup(name).serialized]
        for name in [name for name in serialized if name not in values]:
            # Not by the property's deleter, which would report a local change.
            old = model._property_values.pop(name)
            new = getattr(model, name)
            if not model.lookup(name).property.matches(old, new):
                model.trigger(name, old, new, setter=setter)
        for name, value in values.items():
            model.set_from_json(name, value, setter=setter)

    @contextmanager
    def _callbacks_afterwards(self) -> Iterator[None]:
        callbacks = self.document.callbacks
        if callbacks._hold is not None:
            yield  # the program's own hold
            return
        callbacks._hold = "collect"
        try:
            yield
        finally:
            callbacks._hold = None
            events, callbacks._held_events = callbacks._held_events, []
            for event in events:
                self._guarded(partial(callbacks.trigger_on_change, event))

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            invoke_with_curdoc(self.document, act)
        except Exception:
            log.exception("callback of the document failed: the other callbacks run")

    # After a reconnect

    def make_again(self, change: Change) -> None:
        """Apply a change that the server did not get again, on the current document."""
        self._guarded(lambda: _make_again(self.document, change))


class _Listeners:
    """Wraps a document's dispatch of its changes, for all sessions that follow the document."""

    def __init__(self, document: Document) -> None:
        self.mirrors: list[Mirror] = []
        self._callbacks = document.callbacks
        self._models = document.models
        self._dispatch = document.callbacks.trigger_on_change

    @classmethod
    def of(cls, document: Document) -> _Listeners:
        """The document's wrapper; installs it the first time."""
        callbacks = document.callbacks
        if not isinstance(callbacks.trigger_on_change, cls):
            callbacks.trigger_on_change = cls(document)  # type: ignore[method-assign]
        return callbacks.trigger_on_change

    def remove(self, mirror: Mirror) -> None:
        """Remove a mirror, and the wrapper with the last one."""
        self.mirrors.remove(mirror)
        if not self.mirrors and self._callbacks.trigger_on_change is self:
            del self._callbacks.trigger_on_change  # the instance's, not the class's

    def __call__(self, event: DocumentChangedEvent) -> None:
        # Before the callbacks of the change, which may change more: the events of a patch are in the order of the
        # changes. Events that `hold` holds back come here again at `unhold`.
        if self._callbacks._hold is None and isinstance(event, DocumentPatchedEvent):
            setter: Any = event.setter
            self._notify([mirror for mirror in self.mirrors if mirror is not setter], event)
        self._dispatch(event)

    def _notify(self, mirrors: list[Mirror], event: DocumentPatchedEvent) -> None:
        if len(mirrors) == 1:
            mirrors[0].on_local_change(event)
        elif mirrors:
            self._notify_each(mirrors, event)

    def _notify_each(self, mirrors: list[Mirror], event: DocumentPatchedEvent) -> None:
        """Give each mirror the same new models: encoding marks them as known, but to one server only."""
        models, new = self._models, self._models._new_models
        left, problems = list[set[Model]](), list[Exception]()
        for mirror in mirrors:
            models._new_models = set(new)
            try:
                mirror.on_local_change(event)
            except Exception as problem:
                problems.append(problem)
            left.append(models._new_models)
        models._new_models = set.intersection(*left)
        if problems:
            raise problems[0]


def _columns_of(event: DocumentPatchedEvent) -> dict[str, Any] | None:
    if not isinstance(event, ColumnDataChangedEvent):
        return None
    data = getattr(event.model, event.attr) if event.data is None else event.data
    names = list(data) if event.cols is None else event.cols
    return {name: data[name] for name in names}


def _make_again(document: Document, change: Change) -> None:
    event: Any = change.event
    model: Any = getattr(event, "model", None)
    if event.kind not in ("RootAdded", "MessageSent", "TitleChanged") and model.document is not document:
        log.debug("change dropped after a reconnect: %s, its model has left the document", event.kind)
        return
    match event.kind:
        case "ModelChanged":
            setattr(model, event.attr, event.new)
        case "ColumnDataChanged":
            getattr(model, event.attr).update(change.columns)
        case "ColumnsStreamed":
            model.stream(event.data, event.rollover)
        case "ColumnsPatched":
            model.patch(event.patches)
        case "TitleChanged":
            document.title = event.title
        case "RootAdded":
            document.add_root(model)
        case "RootRemoved":
            document.remove_root(model)
        case _:
            document.callbacks.trigger_on_change(event)


@contextmanager
def _frozen(document: Document) -> Iterator[None]:
    """Like Bokeh's `freeze`, which leaves the document frozen after an exception; this one does not."""
    document.models._push_freeze()
    try:
        yield
    finally:
        document.models._pop_freeze()


class _InPlace(ValueDecoder):
    """Decodes a document; for existing models it collects the new values instead of making them again."""

    def __init__(self, document: Document, buffers: dict[str, bytes], setter: object, allowance: Allowance) -> None:
        super().__init__(lambda _: None, buffers, setter, allowance)
        self.updates: list[tuple[Model, dict[str, Any]]] = []
        self._document = document

    def document(self, content: Any) -> tuple[DocumentConfig, list[Model], str]:
        doc = content.get("doc") if isinstance(content, dict) else None
        if not isinstance(doc, dict):
            raise ServerGarbled("the answer to a pull is no document")
        config, roots, title = (self.value(doc.get(name)) for name in ("config", "roots", "title"))
        if not isinstance(roots, list) or not all(isinstance(root, Model) for root in roots):
            raise ServerGarbled("the server's document has roots that are no models")
        if not isinstance(title, str) or not isinstance(config, DocumentConfig):
            raise ServerGarbled("the server's document has no title or no configuration")
        return config, roots, title

    def _decode_object_ref(self, obj: Any) -> Model:
        there = self._there(obj)
        if there is None:
            return super()._decode_object_ref(obj)
        # Registered before its attributes are decoded, so that cycles end.
        self._references[there.id] = there
        self.updates.append((there, {name: self._decode(value) for name, value in obj.get("attributes", {}).items()}))
        return there

    def _there(self, obj: Any) -> Model | None:
        """The existing model of that id. One of another type is another model."""
        name = obj["id"]
        if not isinstance(name, str) or name in self._references:
            return None
        config: Model = self._document.config
        found = config if config.id == name else self._document.models.get_by_id(name)  # type: ignore[arg-type]
        return found if found is not None and type(found).__qualified_model__ == obj["name"] else None
