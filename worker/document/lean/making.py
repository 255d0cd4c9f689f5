"""A model's beginning: what is set, and those of its defaults whose absence could be noticed."""

from __future__ import annotations

import copy
from typing import Any, Self

from bokeh.core.has_props import HasProps
from bokeh.core.property.descriptors import PropertyDescriptor
from bokeh.core.property.singletons import Intrinsic, Undefined
from bokeh.core.property.wrappers import PropertyValueContainer

from aperture.worker.document.lean import facts as class_facts
from aperture.worker.document.lean.facts import ClassFacts, facts_of

__all__ = ["install"]

_MISSING = object()

_bokehs_init = HasProps.__init__
_bokehs_get = PropertyDescriptor._get
_bokehs_default = PropertyDescriptor._get_default
_bokehs_theming = HasProps.apply_theme


def install() -> None:
    """Have Bokeh make models in this way; see the package."""
    class_facts.install()
    made: Any = HasProps
    read: Any = PropertyDescriptor
    # On the class, for all models that no theme says anything about: Bokeh looks in vain on each of them, which costs
    # two exceptions.
    made.__themed_values__ = None
    made.themed_values = themed_values
    made.apply_theme = apply_theme
    made.__init__ = init
    made.__copy__ = _copy
    read._get = get
    read._get_default = get_default


def init(self: HasProps, **properties: Any) -> None:
    """Stands in for `HasProps.__init__`."""
    facts = facts_of(type(self))
    if facts is None:
        _bokehs_init(self, **properties)
        return
    super(HasProps, self).__init__()
    self._property_values = {}
    self._unstable_default_values = unstable = facts.template.copy()
    self._unstable_themed_values = {}
    for name, value in properties.items():
        if value is Undefined or value is Intrinsic:
            unstable.pop(name, None)  # made when it is read, as in Bokeh
        else:
            setattr(self, name, value)
    for name, descriptor in facts.eager:
        # In Bokeh's order: some of these make models, which take ids.
        if name not in properties and (descriptor in facts.unstable or descriptor.has_unstable_default(self)):
            descriptor._get(self)
    self._initialized = True


def get(descriptor: PropertyDescriptor[Any], obj: Any) -> Any:
    """Stands in for `PropertyDescriptor._get`. Most of what is read is a default that never changes."""
    name = descriptor.name
    try:
        stored, unstable = obj._property_values, obj._unstable_default_values
    except AttributeError:
        return _bokehs_get(descriptor, obj)  # which says what was not called
    if name in stored:
        return stored[name]
    facts = facts_of(type(obj))
    if facts is not None and name not in unstable and obj.__themed_values__ is None:
        constant = facts.constant.get(descriptor, _MISSING)
        if constant is not _MISSING:
            return constant
    return descriptor._get_default(obj)


def get_default(descriptor: PropertyDescriptor[Any], obj: HasProps) -> Any:
    """Stands in for `PropertyDescriptor._get_default`."""
    name = descriptor.name
    themed = obj.themed_values()
    if themed is None or name not in themed:
        unstable = obj._unstable_default_values
        if name in unstable:
            return unstable[name]
        facts = facts_of(type(obj))
        if facts is not None:
            constant = facts.constant.get(descriptor, _MISSING)
            if constant is not _MISSING:
                return constant
            if descriptor in facts.lazy:
                return _first_of(descriptor, obj)
    return _bokehs_default(descriptor, obj)


def _first_of(descriptor: PropertyDescriptor[Any], obj: HasProps) -> Any:
    """A default that was left to be made until now, in whichever thread is first: all are to have the same one."""
    default: Any = descriptor.instance_default(obj)
    if isinstance(default, PropertyValueContainer):
        default._register_owner(obj, descriptor)
    return obj._unstable_default_values.setdefault(descriptor.name, default)


def themed_values(self: Any) -> dict[str, Any] | None:
    """Stands in for `HasProps.themed_values`."""
    themed: dict[str, Any] | None = self.__themed_values__
    return themed


def apply_theme(self: Any, property_values: dict[str, Any]) -> None:
    """Stands in for `HasProps.apply_theme`. For most models there is nothing to apply, and was nothing before."""
    if property_values:
        _bokehs_theming(self, property_values)
    elif self.themed_values() is not None:
        if self.__themed_values__ is None:
            # A class with `themed_values` of its own. Bokeh deletes the attribute, and it is not the model's own.
            self.__themed_values__ = {}
        _bokehs_theming(self, property_values)


def _copy(self: HasProps) -> Self:  # type: ignore[misc]
    """A copy has the same lists and dicts as its original, also those that have not been read yet."""
    facts = facts_of(type(self))
    if facts is not None and hasattr(self, "_property_values"):
        _look_at_all(self, facts)
    return copy._reconstruct(self, None, *self.__reduce_ex__(4))  # type: ignore[attr-defined]


def _look_at_all(model: HasProps, facts: ClassFacts) -> None:
    for descriptor in facts.lazy:
        if descriptor.name not in model._property_values:
            descriptor._get(model)
