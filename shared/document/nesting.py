"""How deeply the values of a document nest, models within models among them, as encoders meet them.

One message is bounded by the depth to which it may nest. A second one may put what the first has made into something
new, and a third one that: each is flat, and the document that comes of them could be encoded by nothing, and so be
neither pulled nor kept. So what a peer's message would make of the document is measured before it is applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from bokeh.core.property.descriptors import UnsetValueError
from bokeh.document import Document
from bokeh.model import Model
from bokeh.model.util import visit_value_and_its_immediate_references

from aperture.errors import NestedTooDeeply
from aperture.protocol.attributes import set_attributes

__all__ = ["MAX_DOCUMENT_DEPTH", "check_nesting", "restructures"]

MAX_DOCUMENT_DEPTH = 150
"""Of models, lists and maps inside each other: half as many again as one message may bring. Encoders fail from 250 on
where each model is in a list of another, and from 320 on where there are only lists."""

_PLAIN = frozenset((str, float, int, bool, type(None)))

_NOTHING = object()

_ROOTS = frozenset(("RootAdded", "RootRemoved"))


def restructures(event: Mapping[str, Any]) -> bool:
    """Whether the event has Bokeh look for models that have come or gone: then it walks through all of the document."""
    if event["kind"] in _ROOTS:
        return True
    if event["kind"] != "ModelChanged":
        return False
    # Where the model stores a value, that is what it has. Else it is a default, or what an alias stands for.
    stored = event["model"]._property_values.get(event["attr"], _NOTHING)
    if type(stored) in _PLAIN and type(event["new"]) in _PLAIN:
        return False
    return _holds_models(event["new"]) or _holds_models(_value_of(event["model"], event["attr"]))


def _value_of(model: Model, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except UnsetValueError:  # such as a plot's inner_width, which the browser is the first to set
        return None


def check_nesting(document: Document, events: Iterable[Mapping[str, Any]]) -> None:
    """Find out how deep the document would be with these changes.

    Raises:
        NestedTooDeeply: too deep to be encoded.
    """
    roots = list(document.roots)
    changed: dict[Model, dict[str, Any]] = {}
    for event in events:
        match event["kind"]:
            case "RootAdded":
                roots.append(event["model"])
            case "RootRemoved":
                roots = [root for root in roots if root is not event["model"]]
            case "ModelChanged":
                changed.setdefault(event["model"], {})[event["attr"]] = event["new"]
    if _depth(roots, changed) > MAX_DOCUMENT_DEPTH:
        raise NestedTooDeeply(f"models and values would be nested more than {MAX_DOCUMENT_DEPTH} deep")


def _depth(roots: Iterable[Model], changed: Mapping[Model, Mapping[str, Any]]) -> int:
    """The levels below the roots, each model counted where an encoder writes it: at its first place."""
    written: set[Model] = set()
    deepest = 0
    # Without recursion: what is measured may be deeper than the interpreter's own stack.
    levels: list[Iterator[Any]] = [iter(roots)]
    while levels:
        for value in levels[-1]:
            inside = _inside(value, written, changed)
            if inside is not None:
                levels.append(inside)
                deepest = max(deepest, len(levels) - 1)
                break
        else:
            levels.pop()
    return deepest


def _inside(value: Any, written: set[Model], changed: Mapping[Model, Mapping[str, Any]]) -> Iterator[Any] | None:
    if isinstance(value, Model):
        if value in written:
            return None
        written.add(value)
        attributes = set_attributes(value)
        if attributes is None:
            attributes = value.properties_with_values(include_defaults=False)
        return iter({**attributes, **changed.get(value, {})}.values())
    if isinstance(value, list | tuple | set):
        # In C: most lists are long and of numbers.
        return None if _PLAIN.issuperset(map(type, value)) else iter(value)
    if isinstance(value, dict):
        return chain(value.keys(), value.values())
    return None


def _holds_models(value: Any) -> bool:
    if type(value) in _PLAIN:
        return False
    found: list[Any] = []
    visit_value_and_its_immediate_references(value, found.append)
    return bool(found)
