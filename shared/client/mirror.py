"""A client's copy of a session's document: what the server sends goes in, what was changed here comes out.

The models stay the same objects, also when the whole document comes again after a reconnect or a gap: a model that is
there already is given the values that it has on the server, so that what a program holds on to, and the callbacks on
it, go on. The callbacks of what one message changes run when all of it is in place, and one that fails stops nothing.

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
from bokeh.document.events import DocumentChangedEvent, DocumentPatchedEvent
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
    """One change that was made here.

    Args:
        event: Bokeh's own.
        encoded: as it was when it was made.
        brings_back: whether it writes out a model that has left the document before. The server may have that one
            still when it reads the patch, and then takes nothing of it, so what removed it must be in an earlier patch.
    """

    event: DocumentPatchedEvent
    encoded: EncodedEvent
    brings_back: bool = False
    size: int = field(init=False)
    """Bytes."""
    losses: int = 0
    """How often a connection was lost while it was under way."""

    def __post_init__(self) -> None:
        self.size = len(self.encoded.json) + sum(len(buffer.data) for buffer in self.encoded.buffers)


READ_BUDGET = 4 * 1024 * 1024 * 1024
"""Bytes that decoding what a server sends may allocate, beyond what is in proportion to it, in a minute. Its documents
may be large and inline, where a viewer's messages are neither."""


class Mirror:
    """One document and its changes. Calls must be serialised; who changes the document is one of the callers.

    Args:
        document: to be filled, or that is to be pushed.
        changed: told each change that is made here; what it raises comes out of the assignment.
        agenda: takes the document's timed callbacks.
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
        """Whether it has ever been attached: before that it is nobody's document."""

    # The document's changes

    def attach(self) -> None:
        """Listen to the document from now on. Harmless twice."""
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
        """Leave the document to whoever has it. Harmless twice."""
        if not self.attached:
            return
        self.attached = False
        self._listeners.remove(self)
        self.document.remove_on_change(self)
        self._agenda.clear()

    def heard(self, event: DocumentPatchedEvent) -> None:
        """The document has changed, and not by what this one's server sent."""
        encoded = self._encoder.encode(event)
        self._changed(Change(event, encoded, self._brings_back(encoded)))

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
        """The server has all of it."""
        self.document.models.flush_synced()

    # What comes in

    def apply(self, message: Message) -> None:
        """Apply a patch.

        Raises:
            Exception: it cannot be applied. What is in the document then is for a pull to put right.
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
            log.debug("dropped a patch of a model that has left the document")
            return
        told = [event for event in events if event["kind"] == "MessageSent"]
        with self._callbacks_afterwards():
            for event in events:
                if event["kind"] != "MessageSent":
                    apply_event(document, event, self)
            if not self.attached or self._listeners.mirrors == [self]:
                self._learn(created)
        self._learn(created)  # after another session has heard of them, whose server does not have them
        for event in told:
            self._guarded(partial(apply_event, document, event, self))

    def replace(self, message: Message) -> None:
        """Make the document what a pull was answered with, in place.

        Raises:
            ServerGarbled: it is no document, or one that cannot be made here.
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
        """Whether what a pull was answered with has any root of this document; true if this one has none."""
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
            # Not by the property's deleter, which would tell of a change made here.
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
            log.exception("a callback of the document failed")

    # What must be made once more

    def make_again(self, change: Change) -> None:
        """Make a change that the server did not get once more, on what the document is now."""
        self._guarded(lambda: _make_again(self.document, change.event))


class _Listeners:
    """Stands before a document's dispatch of its changes, for all the sessions that follow the document."""

    def __init__(self, document: Document) -> None:
        self.mirrors: list[Mirror] = []
        self._callbacks = document.callbacks
        self._models = document.models
        self._dispatch = document.callbacks.trigger_on_change

    @classmethod
    def of(cls, document: Document) -> _Listeners:
        """The document's own."""
        callbacks = document.callbacks
        if not isinstance(callbacks.trigger_on_change, cls):
            callbacks.trigger_on_change = cls(document)  # type: ignore[method-assign]
        return callbacks.trigger_on_change

    def remove(self, mirror: Mirror) -> None:
        """Tell this one no more."""
        self.mirrors.remove(mirror)
        if not self.mirrors and self._callbacks.trigger_on_change is self:
            del self._callbacks.trigger_on_change  # the instance's, not the class's

    def __call__(self, event: DocumentChangedEvent) -> None:
        # Before the callbacks of the change, which may change more: a patch is in the order of what happened. What
        # `hold` holds back comes here again when it is let go.
        if self._callbacks._hold is None and isinstance(event, DocumentPatchedEvent):
            setter: Any = event.setter
            self._tell([mirror for mirror in self.mirrors if mirror is not setter], event)
        self._dispatch(event)

    def _tell(self, mirrors: list[Mirror], event: DocumentPatchedEvent) -> None:
        if len(mirrors) == 1:
            mirrors[0].heard(event)
        elif mirrors:
            self._tell_each(mirrors, event)

    def _tell_each(self, mirrors: list[Mirror], event: DocumentPatchedEvent) -> None:
        """Have none take a new model for known because another's server has just learned of it."""
        models, new = self._models, self._models._new_models
        left, problems = list[set[Model]](), list[Exception]()
        for mirror in mirrors:
            models._new_models = set(new)
            try:
                mirror.heard(event)
            except Exception as problem:
                problems.append(problem)
            left.append(models._new_models)
        models._new_models = set.intersection(*left)
        if problems:
            raise problems[0]


def _make_again(document: Document, change: DocumentPatchedEvent) -> None:
    event: Any = change
    model: Any = getattr(event, "model", None)
    if event.kind not in ("RootAdded", "MessageSent", "TitleChanged") and model.document is not document:
        log.debug("a change of a model that has left the document is not made again")
        return
    match event.kind:
        case "ModelChanged":
            setattr(model, event.attr, event.new)
        case "ColumnDataChanged":
            getattr(model, event.attr).update(event.data)
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
    """As `freeze` of Bokeh's, which stays frozen after an exception."""
    document.models._push_freeze()
    try:
        yield
    finally:
        document.models._pop_freeze()


class _InPlace(ValueDecoder):
    """Reads a document; models that are there already are noted with their new values instead of being made."""

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
        # Known before its attributes are read, so that cycles end.
        self._references[there.id] = there
        self.updates.append((there, {name: self._decode(value) for name, value in obj.get("attributes", {}).items()}))
        return there

    def _there(self, obj: Any) -> Model | None:
        """The model that is here already. Another type under the same id is another model."""
        name = obj["id"]
        if not isinstance(name, str) or name in self._references:
            return None
        config: Model = self._document.config
        found = config if config.id == name else self._document.models.get_by_id(name)  # type: ignore[arg-type]
        return found if found is not None and type(found).__qualified_model__ == obj["name"] else None
