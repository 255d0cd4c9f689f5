"""What a model holds and refers to: for serializing, for copies, for the document's table of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import bokeh.core.validation
import bokeh.core.validation.check
import bokeh.document.document
import bokeh.model.model
import bokeh.model.util
from bokeh.core.has_props import HasProps
from bokeh.core.property.descriptors import PropertyDescriptor, UnsetValueError
from bokeh.core.property.singletons import Undefined
from bokeh.core.property.wrappers import PropertyValueContainer
from bokeh.core.validation.check import ValidationIssues
from bokeh.model import Model
from bokeh.util.dataclasses import entries, is_dataclass

from aperture.worker.document.lean.facts import CHECKS, facts_of

__all__ = ["check_integrity", "install"]

_NOTHING: Mapping[str, Any] = {}

_SCALARS = frozenset((int, float, str, bool, type(None)))

_bokehs_query = HasProps.query_properties_with_values
_bokehs_visit = bokeh.model.util.visit_immediate_value_references


def install() -> None:
    """Have Bokeh read models in this way; see the package."""
    HasProps.query_properties_with_values = query_properties_with_values  # type: ignore[method-assign]
    for module in (bokeh.model.util, bokeh.model.model):
        module.visit_value_and_its_immediate_references = visit_value  # type: ignore[attr-defined]
    bokeh.model.util.visit_immediate_value_references = visit_references
    bokeh.document.document.check_integrity = check_integrity  # type: ignore[attr-defined]


def query_properties_with_values(
    self: HasProps,
    query: Callable[[PropertyDescriptor[Any]], bool],
    *,
    include_defaults: bool = True,
    include_undefined: bool = False,
) -> dict[str, Any]:
    """Stands in for `HasProps.query_properties_with_values`.

    Bokeh reads every property to find those that are unset. Without defaults, what a model stores is enough, and what
    has an effect when it is read.
    """
    facts = facts_of(type(self))
    themed = self.themed_values() or _NOTHING
    # What a theme says of a value's units is read with the value, which may fail.
    if include_defaults or facts is None or not facts.hidden.isdisjoint(themed):
        return _bokehs_query(self, query, include_defaults=include_defaults, include_undefined=include_undefined)
    unstable = self._unstable_default_values
    # Before anything is read: what reading makes is not shown this time, as in Bokeh.
    selected = {*self._property_values, *unstable, *themed}
    names = [name for name in selected | facts.asked | facts.kept if name in facts.order]
    result: dict[str, Any] = {}
    for name in sorted(names, key=facts.order.__getitem__):
        descriptor = facts.descriptors[name]
        if not query(descriptor):
            continue
        try:
            value = descriptor.get_value(self)
        except UnsetValueError:
            if not include_undefined:
                raise
            result[name] = Undefined
            continue
        if name not in selected:
            continue
        if name not in themed and isinstance(value, PropertyValueContainer) and name in unstable:
            continue
        result[name] = value
    return result


def visit_references(value: Any, visitor: Callable[[Model], None]) -> None:
    """Stands in for `bokeh.model.util.visit_immediate_value_references`."""
    facts = facts_of(type(value)) if isinstance(value, HasProps) else None
    if facts is None or not hasattr(value, "_property_values"):
        _bokehs_visit(value, visitor)
        return
    stored, unstable = value._property_values, value._unstable_default_values
    themed = value.themed_values() or _NOTHING
    for name, default_is_free in facts.references:
        if default_is_free and name not in stored and name not in unstable and name not in themed:
            continue
        visit_value(getattr(value, name), visitor)


def visit_value(obj: Any, visitor: Callable[[Model], None]) -> None:
    """Stands in for `bokeh.model.util.visit_value_and_its_immediate_references`."""
    kind = type(obj)
    if kind in _SCALARS:
        return
    if issubclass(kind, list | tuple):
        for item in obj:
            if type(item) not in _SCALARS:
                visit_value(item, visitor)
    elif issubclass(kind, dict):
        for key, value in obj.items():
            visit_value(key, visitor)
            visit_value(value, visitor)
    elif issubclass(kind, Model):
        visitor(obj)
    elif issubclass(kind, HasProps):
        visit_references(obj, visitor)
    elif is_dataclass(obj):
        for _, value in entries(obj):
            visit_value(value, visitor)


def check_integrity(models: Iterable[Model]) -> ValidationIssues:
    """Stands in for `bokeh.core.validation.check_integrity`. Bokeh searches each model for its class's checks."""
    issues = ValidationIssues()
    for model in models:
        for name, serious in _checks_of(type(model)):
            (issues.error if serious else issues.warning).extend(getattr(model, name)())
    return issues


def _checks_of(cls: type[Model]) -> list[tuple[str, bool]]:
    """The names of a class's checks, and whether what they find is an error."""
    known: list[tuple[str, bool]] | None = cls.__dict__.get(CHECKS)
    if known is None:
        named = (
            (name, getattr(getattr(cls, name), "validator_type", None)) for name in dir(cls) if name[:6] == "_check"
        )
        known = [(name, kind == "error") for name, kind in named if kind]
        setattr(cls, CHECKS, known)
    return known
