"""What of a model goes over the wire: the values that were set, in the order of the class's properties.

Bokeh evaluates the default of every property of every model to find the few that were set: half a millisecond for an
axis, nearly all of the time of a pull. The answer needs only what the instance stores, so that is where this looks.
Models whose class changes how it is serialized, and those that miss a required value, are left to Bokeh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any
from weakref import WeakKeyDictionary

from bokeh.core.property.descriptors import ColumnDataPropertyDescriptor, PropertyDescriptor
from bokeh.core.property.singletons import Intrinsic, Undefined
from bokeh.core.property.wrappers import PropertyValueContainer
from bokeh.model import Model

__all__ = ["set_attributes"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is the same for all instances of a class. Names only: a descriptor would keep its class alive for ever."""

    order: Mapping[str, int]
    """The serialized properties, each with its place."""
    required: tuple[str, ...]
    """Those without a default."""
    plain: frozenset[str]
    """Those whose stored value is the serialized one."""


_plans: WeakKeyDictionary[type[Model], _Plan | None] = WeakKeyDictionary()
"""None for a class that overrides how its instances are serialized."""

_PLAIN_DESCRIPTORS = (PropertyDescriptor, ColumnDataPropertyDescriptor)

_GOVERNING = ("to_serializable", "properties_with_values", "query_properties_with_values", "themed_values", "lookup")


def set_attributes(model: Model) -> dict[str, Any] | None:
    """The attributes that Bokeh would serialize, defaults left out; None when only Bokeh can tell."""
    cls = type(model)
    try:
        plan = _plans[cls]
    except KeyError:
        plan = _plans[cls] = _plan(cls)
    if plan is None:
        return None
    stored = model._property_values
    unstable = model._unstable_default_values
    themed: Mapping[str, Any] = model.themed_values() or {}
    for name in plan.required:
        if name not in stored and name not in themed:
            return None
    found = {}
    for name in _named(plan, stored, unstable, themed):
        if name not in plan.plain or name in themed:
            found[name] = getattr(cls, name).get_value(model)
        else:
            found[name] = stored[name] if name in stored else unstable[name]
    return found


def _named(plan: _Plan, stored: Mapping[str, Any], unstable: Mapping[str, Any], themed: Mapping[str, Any]) -> list[str]:
    """The names that Bokeh would write, in its order."""
    order = plan.order
    names = {name for name in stored if name in order}
    for name, value in unstable.items():
        # Reading an untouched list or dict stores it, so its being stored does not say that it was changed.
        if name in order and not (isinstance(value, PropertyValueContainer) and name in plan.plain):
            names.add(name)
    names.update(name for name in themed if name in order)
    return sorted(names, key=order.__getitem__)


def _plan(cls: type[Model]) -> _Plan | None:
    if any(getattr_static(cls, name) is not getattr_static(Model, name) for name in _GOVERNING):
        return None
    overridden = cls._overridden_defaults()
    order: dict[str, int] = {}
    required, plain = [], []
    for place, name in enumerate(cls.properties(_with_props=True)):
        descriptor: Any = cls.lookup(name)
        if not descriptor.serialized:
            continue
        order[name] = place
        if _default(descriptor.property, overridden.get(name, Intrinsic)) is Undefined:
            required.append(name)
        if type(descriptor) in _PLAIN_DESCRIPTORS:
            plain.append(name)
    return _Plan(order, tuple(required), frozenset(plain))


def _default(prop: Any, override: Any) -> Any:
    return prop._default if override is Intrinsic else override
