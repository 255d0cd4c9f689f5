"""Panel's objects, brought to the state of their models, where a session goes on in another worker.

What a Panel app knows is in the parameters of its objects, of which Bokeh's models are the shadow. After a recovery the
models are what they were, and the objects are as the app's code made them: a page would look right over an app that has
forgotten. So the way that a browser's change takes, from the model to the parameters, is gone once for all of them, and
no callback runs: what follows from those values is in the models already.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from bokeh.core.has_props import HasProps
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.document import Document
from bokeh.model import Model
from panel.chat import ChatFeed
from panel.io.cache import is_equal
from panel.io.state import set_curdoc
from panel.param import Param
from panel.reactive import Syncable
from panel.util import edit_readonly
from param.parameterized import Parameterized, discard_events, edit_constant

from aperture.worker.panel.memory import recall, shown

__all__ = ["take_over"]

log = logging.getLogger(__name__)


def take_over(document: Document) -> None:
    """Set the parameters of a document's Panel objects to what their models say."""
    with set_curdoc(document):
        # From the outside in: each is looked up when those around it have been pointed to what is shown.
        for component, model in shown(document):
            _point(component, model)
        for component, model in list(shown(document)):
            try:
                _take_over(component, model)
            except Exception:
                log.exception("the state of a %s is not recovered: it begins anew", type(component).__name__)


def _point(component: Syncable, model: Model) -> None:
    """Have the objects inside of a layout know the models that are shown in their places.

    A plot of HoloViews is another model each time that it is drawn, and takes the place of the one before: of the last
    one that was shown, and not of the one that the app's code has made now.
    """
    inside = getattr(getattr(component, "_inner_layout", component), "objects", None)
    children = getattr(model, "children", None)
    if not isinstance(inside, list) or not isinstance(children, list) or len(inside) != len(children):
        return
    for child, place in zip(inside, children, strict=True):
        now = place[0] if isinstance(place, tuple) else place  # in a grid, with row and column
        known = getattr(child, "_models", {})
        for ref, (before, parent) in list(known.items()):
            if parent is model and before is not now:
                known[ref] = (now, parent)


def _take_over(component: Syncable, model: Model) -> None:
    linked = component._linked_properties
    # Components that are written in JavaScript have what is theirs in a model of its own.
    own = getattr(model, "data", None)
    source = own if isinstance(own, HasProps) and not set(linked) <= set(model.properties()) else model
    # Bokeh has values that are not set before a browser sets them, such as `value_throttled`.
    values = {name: getattr(source, name) for name in linked if name in source.properties() and _is_set(source, name)}
    changed = {
        name: value
        for name, value in component._process_property_change(values).items()
        if name in component.param and not _has_models(value) and not _same(value, getattr(component, name))
    }
    kept = dict(recall(model))
    messages = kept.pop("objects", None) if isinstance(component, ChatFeed) else None
    with discard_events(component), edit_constant(component), edit_readonly(component):
        for name, value in {**changed, **kept}.items():
            _set(component, name, value)
    if isinstance(component, Param):
        _hand_on(component)
    if messages is not None:
        _say_again(component, messages)


def _hand_on(pane: Param) -> None:
    """To the object whose parameters a pane shows: it learns of its widgets by callbacks only."""
    shown_object = pane.object
    if not isinstance(shown_object, Parameterized):
        return
    with discard_events(shown_object), edit_constant(shown_object):
        for name, widget in pane._widgets.items():
            if name in shown_object.param and hasattr(widget, "value"):
                _set(shown_object, name, widget.value)


def _say_again(feed: ChatFeed, messages: list[dict[str, Any]]) -> None:
    """Make the messages anew that were said since the app's code ran. Their models are new, and show the same."""
    said = list(feed.objects)
    for number, message in enumerate(messages):
        if number < len(said) and said[number].object == message["object"]:
            continue
        time = message["timestamp"]
        more = {} if time is None else {"timestamp": datetime.fromtimestamp(time)}
        new = feed._build_message({"object": message["object"]}, message["user"], message["avatar"] or None, **more)
        said[number : number + 1] = [new]
    feed.objects = said


def _set(component: Syncable, name: str, value: Any) -> None:
    """A value that the parameter does not take is one that its model has made of another."""
    try:
        setattr(component, name, value)
    except (TypeError, ValueError) as problem:
        log.debug("%s.%s is not recovered: %s", type(component).__name__, name, problem)


def _has_models(value: Any) -> bool:
    """What a layout holds are Panel's objects, not their models: those it has are the right ones."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(one, Model) for one in inside)


def _is_set(model: HasProps, name: str) -> bool:
    try:
        getattr(model, name)
    except UnsetValueError:
        return False
    return True


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(is_equal(one, other))
    except Exception:
        return False
