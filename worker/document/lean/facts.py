"""What holds for all models of a class: which defaults there are, when each is made, which may refer to models.

The answers are kept on the class that they are about, so they go with it: apps define models in their scripts.
Nothing here calls a default that is a function. Such a function may make a model, which would take an id.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from functools import wraps
from inspect import getattr_static
from typing import Any, cast

from bokeh.core.has_props import HasProps
from bokeh.core.property.bases import Property
from bokeh.core.property.descriptors import (
    ColumnDataPropertyDescriptor,
    DataSpecPropertyDescriptor,
    PropertyDescriptor,
    UnitsSpecPropertyDescriptor,
)
from bokeh.core.property.singletons import Undefined
from bokeh.core.property.vectorization import Expr, Field, Value
from bokeh.core.property.wrappers import PropertyValueContainer
from bokeh.model import Model
from bokeh.model.util import HasDocumentRef
from bokeh.util.dataclasses import entries, is_dataclass

__all__ = ["CHECKS", "ClassFacts", "facts_of", "has_unstable_default", "install"]

_FACTS, _DEFAULTS, CHECKS = "_aperture_facts", "_aperture_defaults", "_aperture_checks"
"""Where on a class its facts are, its overridden defaults, and the names of its integrity checks."""

_PLAIN = (PropertyDescriptor, ColumnDataPropertyDescriptor)
"""Descriptors that serialize a value as it is."""

_KNOWN = (*_PLAIN, DataSpecPropertyDescriptor, UnitsSpecPropertyDescriptor)
"""Descriptors of which is known what they do. One of an app's own may do anything."""

_OF_CLASSES = (
    *("_overridden_defaults", "apply_theme", "lookup", "properties", "properties_with_refs"),
    *("query_properties_with_values", "themed_values"),
)
"""What a class may not change, or nothing here holds for it."""

_OF_DEFAULTS = ("_copy_default", "_raw_default", "themed_default")
"""What a property may not change, or its default is asked of it each time."""

_CONSTANT = frozenset((type(None), bool, int, float, complex, str, bytes, date, time, timedelta))
"""Types of values that no model can change for another one."""

_EVALUATED = frozenset((*_CONSTANT, list, dict, set, tuple, frozenset, Field, Value, Expr))
"""Types of defaults that are worked out here. To copy others might be noticed: the copy of a model takes an id."""

_KEPT = "_aperture_"
"""How the names begin of what is kept on classes."""

_LISTED = ("descriptors", "dataspecs", "properties", "properties_with_refs")
"""What Bokeh keeps of classes, in tables that keep the classes, too, for as long as the process lives."""

_bokehs_defaults = HasProps.__dict__["_overridden_defaults"].__func__
_bokehs_unstable = PropertyDescriptor.has_unstable_default
_quiet_triggers: list[object] = [getattr_static(Model, "trigger")]
"""Bokeh's, and what stands in for it."""


@dataclass(slots=True, eq=False)
class ClassFacts:
    """Of one class.

    Bokeh calls a default unstable that may be changed in place. It makes those with each model, and all others each
    time that they are read.
    """

    descriptors: dict[str, Any] = field(default_factory=dict)
    """By name, in Bokeh's order."""
    order: dict[str, int] = field(default_factory=dict)
    """The place of each name."""
    unstable: dict[Any, bool] = field(default_factory=dict)
    """Of each descriptor of a known kind, whether its default is."""
    constant: dict[Any, Any] = field(default_factory=dict)
    """By descriptor, stable defaults that cannot be changed."""
    template: dict[str, Any] = field(default_factory=dict)
    """Unstable defaults that cannot be changed, as where lists are accepted and the default is a word."""
    eager: list[tuple[str, Any]] = field(default_factory=list)
    """Names and descriptors of defaults to be made with each model: functions, and what Bokeh would serialize."""
    lazy: dict[Any, PropertyValueContainer] = field(default_factory=dict)
    """By descriptor, an untouched one of each list, set and dict that can wait until it is looked at."""
    kept: frozenset[str] = frozenset()
    """What each model has from its start: the names of `template` and `eager`."""
    asked: set[str] = field(default_factory=set)
    """Names whose reading may have an effect: without a default, or with a function that is called each time."""
    hidden: frozenset[str] = frozenset()
    """Names that are not serialized, though the serialized value of another may depend on them, as on its units."""
    references: tuple[tuple[str, bool], ...] = ()
    """Names that may refer to models, each with whether its default surely does not."""
    triggers: bool = True
    """Whether its models report changes: models do, plain `HasProps` do not."""
    quiet: bool = False
    """Whether a change of a model that has neither document nor callbacks has no further effect."""


def install() -> None:
    """Have Bokeh ask here; see the package."""
    HasProps._overridden_defaults = classmethod(overridden_defaults)  # type: ignore[method-assign, assignment]
    for name in _LISTED:
        setattr(HasProps, name, _kept[name])
    PropertyDescriptor.has_unstable_default = has_unstable_default  # type: ignore[method-assign, assignment]
    # What Bokeh assumes of a class that does not say so. It asks all classes for each document that it writes out, and
    # where nothing is found each answer costs an exception.
    HasProps.__data_model__ = False
    type(HasProps).__setattr__ = set_on_class  # type: ignore[method-assign, assignment]


def set_on_class(cls: type[HasProps], name: str, value: object) -> None:
    """Stands in for `type.__setattr__`: a class that is changed after its first model was made is looked at anew."""
    type.__setattr__(cls, name, value)
    if not name.startswith(_KEPT):
        _forget(cls)


def _forget(cls: type[Any]) -> None:
    for name in (_FACTS, _DEFAULTS, CHECKS):
        if name in cls.__dict__:
            type.__delattr__(cls, name)
    for derived in cls.__subclasses__():
        _forget(derived)


def facts_of(cls: type[HasProps]) -> ClassFacts | None:
    """The facts of a class; None for one that has changed what they are made of."""
    try:
        known: ClassFacts | None = cls.__dict__[_FACTS]  # no `cast`: it is called for each value that is set
        return known
    except KeyError:
        facts = _find(cls) if _is_as_bokeh_made_it(cls) else None
        setattr(cls, _FACTS, facts)
        return facts


def is_quiet_too(trigger: object) -> None:
    """Have models be quiet whose class has this `trigger` instead of Bokeh's."""
    if trigger not in _quiet_triggers:
        _quiet_triggers.append(trigger)


def overridden_defaults(cls: type[HasProps]) -> dict[str, Any]:
    """Stands in for `HasProps._overridden_defaults`, whose callers only read what they get."""
    known = cls.__dict__.get(_DEFAULTS)
    if known is None:
        known = _bokehs_defaults(cls)
        setattr(cls, _DEFAULTS, known)
    return cast("dict[str, Any]", known)


def has_unstable_default(descriptor: PropertyDescriptor[Any], obj: HasProps) -> bool:
    """Stands in for `PropertyDescriptor.has_unstable_default`."""
    facts = facts_of(type(obj))
    answer = None if facts is None else facts.unstable.get(descriptor)
    return _bokehs_unstable(descriptor, obj) if answer is None else answer


def _is_as_bokeh_made_it(cls: type[Any]) -> bool:
    return issubclass(cls, HasProps) and all(
        getattr_static(cls, name) is getattr_static(HasProps, name) for name in _OF_CLASSES
    )


def _find(cls: type[HasProps]) -> ClassFacts:
    facts = ClassFacts(triggers=hasattr(cls, "trigger"), quiet=_is_quiet(cls))
    overrides = overridden_defaults(cls)
    free_of_models = set()
    properties: dict[str, Any] = cls.properties(_with_props=True)  # type: ignore[assignment]
    for name, prop in properties.items():
        descriptor: Any = cls.lookup(name)
        facts.order[name] = len(facts.order)
        facts.descriptors[name] = descriptor
        if type(descriptor) not in _KNOWN or not _is_bokehs(prop) or not _has_bokehs_defaults(descriptor.property):
            facts.eager.append((name, descriptor))
            facts.asked.add(name)
            continue
        value = _evaluated(cls, descriptor, overrides.get(name, prop._default))
        _note(facts, cls, name, descriptor, value)
        if value is not _UNKNOWN and _is_free_of_models(value):
            free_of_models.add(name)
    facts.kept = frozenset((*facts.template, *(name for name, _ in facts.eager)))
    facts.hidden = frozenset(name for name, descriptor in facts.descriptors.items() if not descriptor.serialized)
    facts.references = tuple((name, name in free_of_models) for name in cls.properties_with_refs())
    return facts


def _note(facts: ClassFacts, cls: type[HasProps], name: str, descriptor: Any, value: Any) -> None:
    """Sort one default in, by when Bokeh makes it and whether that can be noticed."""
    unstable = facts.unstable[descriptor] = bool(_bokehs_unstable(descriptor, cast("Any", cls)))
    constant = value is Undefined or _is_constant(value)
    if value is Undefined or (value is _UNKNOWN and not unstable):
        facts.asked.add(name)
    if not unstable:
        if constant:
            facts.constant[descriptor] = value
    elif constant:
        facts.template[name] = value
    elif isinstance(value, PropertyValueContainer) and type(descriptor) in _PLAIN:
        # Bokeh leaves these out where it serializes no defaults, so that nothing tells whether they are there.
        facts.lazy[descriptor] = value
    else:
        facts.eager.append((name, descriptor))


class _Unknown:
    """Stands for a default that cannot be worked out for the class."""


_UNKNOWN = _Unknown()


def _evaluated(cls: type[HasProps], descriptor: PropertyDescriptor[Any], default: Any) -> Any:
    """The default as a model would have it."""
    if default is Undefined:
        return Undefined
    if type(default) not in _EVALUATED:
        return _UNKNOWN
    try:
        # One that needs to be converted is not converted while an app has turned validation off. That is asked here
        # without turning it on, which would be for all threads.
        descriptor.property.validate(default, False)
        return descriptor.class_default(cls)
    except ValueError:
        return _UNKNOWN


def _is_bokehs(prop: Property[Any]) -> bool:
    """Whether the property, and those that it is made of, answer alike each time. One of an app's own need not."""
    return type(prop).__module__.partition(".")[0] == "bokeh" and all(map(_is_bokehs, getattr(prop, "type_params", ())))


def _has_bokehs_defaults(prop: Property[Any]) -> bool:
    return all(getattr_static(type(prop), name) is getattr_static(Property, name) for name in _OF_DEFAULTS)


def _is_constant(value: Any) -> bool:
    return type(value) in _CONSTANT or (type(value) is tuple and all(map(_is_constant, value)))


def _is_free_of_models(value: Any) -> bool:
    """Whether Bokeh, which looks into these, would find no model."""
    if isinstance(value, list | tuple):
        return all(map(_is_free_of_models, value))
    if isinstance(value, dict):
        return all(_is_free_of_models(key) and _is_free_of_models(item) for key, item in value.items())
    if is_dataclass(value):
        return all(_is_free_of_models(item) for _, item in entries(value))
    return type(value) in _CONSTANT or isinstance(value, set)


def _is_quiet(cls: type[HasProps]) -> bool:
    if not hasattr(cls, "trigger"):
        return True
    document = HasDocumentRef.__dict__["document"]
    return getattr_static(cls, "trigger") in _quiet_triggers and getattr_static(cls, "document") is document


def _kept_on_class(name: str, find: Callable[..., Any]) -> Callable[..., Any]:
    """A function of classes that keeps what it has found on each class, by its arguments."""
    attr = f"{_KEPT}{name}"

    @wraps(find)
    def found(cls: type[HasProps], **how: bool) -> Any:
        known = cls.__dict__.get(attr)
        if known is None:
            known = {}
            setattr(cls, attr, known)
        key = any(how.values())
        if key not in known:
            known[key] = find(cls, **how)
        return known[key]

    return found


_kept = {name: classmethod(_kept_on_class(name, inspect.unwrap(HasProps.__dict__[name].__func__))) for name in _LISTED}
