"""Take a document apart so that reference counting frees it.

Bokeh's own `Document.destroy` asks the garbage collector for all referrers of each module and collects the whole heap
for every session: hundreds of closing tabs stall the event loop for a minute. The cycles of a dead session are known
(models and their document, a script's module and its functions), so they are cut here by hand, and what an app tied
into cycles of its own is left to `aperture.worker.collector`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from bokeh.document import Document

from aperture.worker.document.classes import forget_classes

__all__ = ["release_callback", "take_apart"]

_MODELS_PER_STEP = 200
"""About a millisecond of work."""


def take_apart(document: Document) -> Iterator[None]:
    """Free a document that is no longer in use, in steps: the caller may serve others between two of them."""
    document._session_context = None
    document.callbacks._change_callbacks.clear()
    models = [*document.models, *document.config.references()]
    for number, model in enumerate(models, 1):
        model.destroy()
        # Lists and such that the model was asked for but never given; each refers to its owner.
        model._unstable_default_values.clear()
        _drop_callbacks(model)
        if number % _MODELS_PER_STEP == 0:
            yield
    yield
    document._roots.clear()
    document.models._models.clear()
    document.models._models_by_name = type(document.models._models_by_name)()
    document.models._new_models.clear()
    _drop_document_callbacks(document)
    yield
    _drop_modules(document)


def release_callback(callback: Any) -> None:
    """Let go of what a callback that will not run any more refers to."""
    callback._callback = _nothing


def _nothing() -> None:
    """What is left of a callback that was removed."""


def _drop_callbacks(model: object) -> None:
    """An app's callback closes over its models, and the model holds the callback: the commonest cycle there is."""
    for name in ("_callbacks", "_event_callbacks"):
        held = getattr(model, name, None)
        if held is not None:
            held.clear()


def _drop_document_callbacks(document: Document) -> None:
    callbacks = document.callbacks
    for callback in callbacks.session_callbacks:
        release_callback(callback)
    for held in (
        callbacks._event_callbacks,
        callbacks._js_event_callbacks,
        callbacks._message_callbacks,
        callbacks._session_callbacks,
        callbacks._session_destroyed_callbacks,
        callbacks._subscribed_models,
        callbacks._held_events,
    ):
        held.clear()


def _drop_modules(document: Document) -> None:
    for module in document.modules._modules:
        sys.modules.pop(module.__name__, None)
        forget_classes(module.__name__)
        module.__dict__.clear()
    document.modules._modules.clear()
