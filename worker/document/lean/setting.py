"""Values on their way into a model.

While a model is made, and until it is in a document or has a callback, no code sees its changes.
Then the old value need not be made only to be compared and thrown away.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, cast

import numpy as np
from bokeh.core import has_props
from bokeh.core.has_props import HasProps
from bokeh.core.property.bases import Property
from bokeh.core.property.container import Dict, Seq
from bokeh.core.property.descriptors import ColumnDataPropertyDescriptor, PropertyDescriptor
from bokeh.core.property.nullable import Nullable
from bokeh.core.property.primitive import Bool, Float, Int, String
from bokeh.core.property.required import Required
from bokeh.core.property.singletons import Intrinsic, Undefined
from bokeh.core.property.wrappers import PropertyValueColumnData, PropertyValueContainer
from bokeh.document.events import ColumnDataChangedEvent, ModelChangedEvent
from bokeh.model import Model

from aperture.worker.document.lean.facts import ClassFacts, facts_of, is_quiet_too

__all__ = ["install"]

_SCALARS = frozenset((type(None), bool, int, float, str))

_MISSING = object()

_NO_TYPES: frozenset[type] = frozenset()

_OWN = {
    Bool: frozenset((bool,)),
    Float: frozenset((float, int)),
    Int: frozenset((int,)),
    String: frozenset((str,)),
}
"""Of properties of exactly these types, types of values that they take. What is derived from them may be choosier."""

_NUMBERS_AND_WORDS = _SCALARS - {type(None)}  # None is also what is found where nothing is stored

_NO_VALUES: dict[str, Any] = {}
"""Of a model whose constructor has not run, for which Bokeh's own way has a word."""

_SEQUENCES = frozenset((list, tuple, np.ndarray))

_TRACE = 9
"""Bokeh's level of a log that says everything."""

_bokehs_log = logging.getLogger(has_props.__name__)
_bokehs_from_json = HasProps.set_from_json
_bokehs_trigger = Model.trigger
_bokehs_matches = Property.matches
_bokehs_setattr = HasProps.__setattr__
_bokehs_prepare = Property.prepare_value
_bokehs_validate_dict = Dict.validate
_bokehs_set = PropertyDescriptor.__set__
_bokehs_set_from_json = PropertyDescriptor.set_from_json
_bokehs_set_columns: Any = ColumnDataPropertyDescriptor.__set__


def install() -> None:
    """Have Bokeh set values in this way; see the package."""
    HasProps.__setattr__ = set_attribute  # type: ignore[method-assign, assignment]
    is_quiet_too(trigger)
    HasProps.set_from_json = set_named_from_json  # type: ignore[method-assign]
    Model.trigger = trigger  # type: ignore[method-assign]
    Property.prepare_value = prepare_value  # type: ignore[method-assign]
    Property.matches = matches  # type: ignore[method-assign]
    Dict.validate = validate_dict  # type: ignore[method-assign]
    descriptor: Any = PropertyDescriptor
    descriptor.__set__ = set_value
    descriptor.set_from_json = set_from_json
    descriptor._set = replace
    ColumnDataPropertyDescriptor.__set__ = set_columns  # type: ignore[method-assign]


def set_attribute(self: HasProps, name: str, value: Any) -> None:
    """Stands in for `HasProps.__setattr__`."""
    if name[:1] == "_":  # two of three, and for Bokeh, too, attributes as any
        super(HasProps, self).__setattr__(name, value)
        return
    facts = facts_of(type(self))
    if facts is None or name not in facts.descriptors:
        _bokehs_setattr(self, name, value)  # which says what it might have meant
    else:
        super(HasProps, self).__setattr__(name, value)


def set_named_from_json(self: HasProps, name: str, value: Any, *, setter: Any = None) -> None:
    """Stands in for `HasProps.set_from_json`, which writes out each value for a log that is not written."""
    facts = facts_of(type(self))
    if facts is None or name not in facts.descriptors or _bokehs_log.isEnabledFor(_TRACE):
        _bokehs_from_json(self, name, value, setter=setter)
    else:
        facts.descriptors[name].set_from_json(self, value, setter=setter)


def set_value(descriptor: PropertyDescriptor[Any], obj: HasProps, value: Any, *, setter: Any = None) -> None:
    """Stands in for `PropertyDescriptor.__set__`."""
    if not _may_be_set(descriptor, obj):
        _bokehs_set(descriptor, obj, value, setter=setter)  # which says why not
        return
    _store(descriptor, obj, descriptor.property.prepare_value(obj, descriptor.name, value), None, setter)


def set_columns(descriptor: ColumnDataPropertyDescriptor, obj: Any, value: Any, *, setter: Any = None) -> None:
    """Stands in for `ColumnDataPropertyDescriptor.__set__`."""
    if not _may_be_set(descriptor, obj) or isinstance(value, PropertyValueColumnData):
        _bokehs_set_columns(descriptor, obj, value, setter=setter)  # which says why not
        return
    document = obj.document
    hint = ColumnDataChangedEvent(document, obj, "data", setter=setter) if document else None
    _store(descriptor, obj, descriptor.property.prepare_value(obj, descriptor.name, value), hint, setter)


def set_from_json(descriptor: PropertyDescriptor[Any], obj: HasProps, value: Any, *, setter: Any = None) -> None:
    """Stands in for `PropertyDescriptor.set_from_json`. Most that browsers send is one number in place of another."""
    prop = descriptor.property
    old = getattr(obj, "_property_values", _NO_VALUES).get(descriptor.name)
    plain = type(old) in _NUMBERS_AND_WORDS and type(descriptor) is PropertyDescriptor and not prop.assertions
    if plain and _takes(prop, value):
        _exchange(descriptor, obj, old, value, setter)
        return
    _store(descriptor, obj, prop.prepare_value(obj, descriptor.name, value), None, setter)


def _exchange(descriptor: PropertyDescriptor[Any], obj: HasProps, old: Any, value: Any, setter: Any) -> None:
    """What `_store` and `replace` come to where the model stores one plain value and gets another."""
    if value == old:
        return
    descriptor._set_value(obj, value)
    facts = facts_of(type(obj))
    if facts is None or _is_heard(obj, facts):
        descriptor._trigger(obj, old, value, setter=setter)


def replace(
    descriptor: PropertyDescriptor[Any], obj: HasProps, old: Any, value: Any, *, hint: Any = None, setter: Any = None
) -> None:
    """Stands in for `PropertyDescriptor._set`."""
    if value is Undefined:
        raise RuntimeError("internal error attempting to set Undefined value")
    # With a hint, the value was changed in place, or is to be reported whether or not it differs.
    if hint is None and descriptor.property.matches(value, old):
        return
    # What there is to replace need not be `old`, which is a copy of it where it was changed in place.
    before = obj._property_values.get(descriptor.name, old)
    if before is not value:
        if isinstance(before, PropertyValueContainer):
            before._unregister_owner(obj, cast("Any", descriptor))
        descriptor._set_value(obj, value)
    facts = facts_of(type(obj))
    if facts is None or _is_heard(obj, facts):
        descriptor._trigger(obj, old, value, hint=hint, setter=setter)


def trigger(self: Model, attr: str, old: Any, new: Any, hint: Any = None, setter: Any = None) -> None:
    """Stands in for `Model.trigger`. Most values are numbers and words, and refer to no model."""
    facts = facts_of(type(self))
    may_refer = hint is None and not (type(new) in _SCALARS and type(old) in _SCALARS)
    if facts is None or not facts.quiet or may_refer or attr not in facts.descriptors:
        _bokehs_trigger(self, attr, old, new, hint, setter)
        return
    descriptor = facts.descriptors[attr]
    name = descriptor.name
    document = self.document
    if document is None:
        _call(self, name, old, new)
        return
    manager = document.callbacks
    # While changes are held back, callbacks may still be added to those that will be called for this one.
    heard = name in self._callbacks or manager.hold_value is not None
    invoker = partial(_call, self, name, old, new) if heard else None
    # What the event says is what Bokeh would read from the model. A name is also the document's to know.
    if type(descriptor) is PropertyDescriptor and name != "name" and self._property_values.get(name, _MISSING) is new:
        manager.trigger_on_change(ModelChangedEvent(document, self, name, new, setter, invoker))
    else:
        manager.notify_change(self, name, old, new, hint, setter, invoker)


def _call(model: Model, attr: str, old: Any, new: Any) -> None:
    for callback in model._callbacks.get(attr, ()):
        callback(attr, old, new)


def prepare_value(
    self: Property[Any], owner: HasProps | type[HasProps], name: str, value: Any, *, hint: Any = None
) -> Any:
    """Stands in for `Property.prepare_value`, for properties without assertions."""
    if value is Intrinsic or value is Undefined or self.assertions:
        return _bokehs_prepare(self, owner, name, value, hint=hint)
    if hint is None and _takes(self, value):
        return value
    if Property._should_validate:
        try:
            self.validate(self._hinted_value(value, hint))
        except ValueError as problem:
            value = _converted(self, owner, name, value, problem)
    return self.wrap(self.transform(value))


def _takes(prop: Property[Any], value: Any) -> bool:
    """Whether it is surely a value of the property's, and is stored as it is: numbers and words, as most values are.

    Bokeh calls a dozen functions to find out, of which one asks an abstract base class.
    """
    kind = type(prop)
    if kind is Required or kind is Nullable:
        if value is None:
            return kind is Nullable
        kind = type(cast("Any", prop)._type_params[0])
    return type(value) in _OWN.get(kind, _NO_TYPES)


def _converted(
    prop: Property[Any], owner: HasProps | type[HasProps], name: str, value: Any, problem: ValueError
) -> Any:
    """What the property makes of a value that is not of its own kind. To validate it again could be noticed."""
    for kind, convert in prop.alternatives:
        if kind.is_valid(value):
            return convert(value)
    whose = owner if isinstance(owner, HasProps) else owner.__name__
    raise ValueError(f"failed to validate {whose}.{name}: {problem}") from None


def matches(self: Property[Any], new: Any, old: Any) -> bool:
    """Stands in for `Property.matches`. Bokeh asks of each value whether it is one of numpy's, or of pandas'."""
    kind = type(new)
    if kind is type(old) and kind in _SCALARS:
        return bool(new == old)
    return _bokehs_matches(self, new, old)


def validate_dict(self: Dict, value: Any, detail: bool = True) -> None:
    """Stands in for `Dict.validate`, which words the error before it knows of one. For columns, as most dicts are."""
    if not (isinstance(value, dict) and _are_words(self.keys_type, value) and _are_columns(self.values_type, value)):
        _bokehs_validate_dict(self, value, detail)


def _are_words(kind: Property[Any], value: dict[Any, Any]) -> bool:
    return type(kind) is String and all(type(key) is str for key in value)


def _are_columns(kind: Property[Any], value: dict[Any, Any]) -> bool:
    """Whether all are sequences, and their items need not be looked at."""
    return (
        type(kind) is Seq
        and kind._should_skip_item_validation()  # type: ignore[no-untyped-call]
        and all(type(item) in _SEQUENCES for item in value.values())
    )


def _may_be_set(descriptor: PropertyDescriptor[Any], obj: HasProps) -> bool:
    return hasattr(obj, "_property_values") and not (descriptor.property.readonly and obj._initialized)


def _store(descriptor: PropertyDescriptor[Any], obj: HasProps, value: Any, hint: Any, setter: Any) -> None:
    """Set a value that is prepared, if it is another one than there is."""
    facts = facts_of(type(obj))
    waits = facts is not None and descriptor in facts.lazy and not _is_there(descriptor.name, obj)
    if facts is None or not waits or _is_heard(obj, facts):
        how = {"setter": setter} if hint is None else {"hint": hint, "setter": setter}
        descriptor._set(obj, descriptor._get(obj), value, **how)
    elif not descriptor.property.matches(value, facts.lazy[descriptor]):
        # Bokeh would make the default, to see whether it is what is set.
        descriptor._set_value(obj, value)


def _is_there(name: str, obj: HasProps) -> bool:
    """Whether the model stores a value of that name, or a theme gives it one."""
    themed = obj.themed_values()
    return (
        name in obj._property_values or name in obj._unstable_default_values or (themed is not None and name in themed)
    )


def _is_heard(obj: Any, facts: ClassFacts) -> bool:
    """Whether a change of the model has an effect beyond the model."""
    if not facts.triggers:
        return False
    return not facts.quiet or obj._document is not None or obj._temp_document is not None or bool(obj._callbacks)
