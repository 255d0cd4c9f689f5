"""Values on their way into a model.

While a model is made, and until it is in a document or somebody has asked to be called, its changes are heard by none.
Then what was there before need not be made only to be compared and thrown away.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, cast

from bokeh.core import has_props
from bokeh.core.has_props import HasProps
from bokeh.core.property.bases import Property
from bokeh.core.property.descriptors import ColumnDataPropertyDescriptor, PropertyDescriptor
from bokeh.core.property.singletons import Intrinsic, Undefined
from bokeh.core.property.wrappers import PropertyValueColumnData, PropertyValueContainer
from bokeh.document.events import ColumnDataChangedEvent
from bokeh.model import Model

from aperture.worker.document.lean.facts import ClassFacts, facts_of, is_quiet_too

__all__ = ["install"]

_SCALARS = frozenset((type(None), bool, int, float, str))

_TRACE = 9
"""Bokeh's level of a log that says everything."""

_bokehs_log = logging.getLogger(has_props.__name__)
_bokehs_from_json = HasProps.set_from_json
_bokehs_trigger = Model.trigger
_bokehs_matches = Property.matches
_bokehs_setattr = HasProps.__setattr__
_bokehs_prepare = Property.prepare_value
_bokehs_set = PropertyDescriptor.__set__
_bokehs_set_columns: Any = ColumnDataPropertyDescriptor.__set__


def install() -> None:
    """Have Bokeh set values in this way; see the package."""
    HasProps.__setattr__ = set_attribute  # type: ignore[method-assign, assignment]
    is_quiet_too(trigger)
    HasProps.set_from_json = set_named_from_json  # type: ignore[method-assign]
    Model.trigger = trigger  # type: ignore[method-assign]
    Property.prepare_value = prepare_value  # type: ignore[method-assign]
    Property.matches = matches  # type: ignore[method-assign]
    descriptor: Any = PropertyDescriptor
    descriptor.__set__ = set_value
    descriptor.set_from_json = set_from_json
    descriptor._set = replace
    ColumnDataPropertyDescriptor.__set__ = set_columns  # type: ignore[method-assign]


def set_attribute(self: HasProps, name: str, value: Any) -> None:
    """Stands in for `HasProps.__setattr__`."""
    facts = facts_of(type(self))
    if facts is None or not (name in facts.descriptors or name.startswith("_")):
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
    """Stands in for `PropertyDescriptor.set_from_json`."""
    _store(descriptor, obj, descriptor.property.prepare_value(obj, descriptor.name, value), None, setter)


def replace(
    descriptor: PropertyDescriptor[Any], obj: HasProps, old: Any, value: Any, *, hint: Any = None, setter: Any = None
) -> None:
    """Stands in for `PropertyDescriptor._set`."""
    if value is Undefined:
        raise RuntimeError("internal error attempting to set Undefined value")
    # With a hint, the value was changed in place, or is told of whether or not it is another one.
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
    if facts is None or not facts.quiet or may_refer:
        _bokehs_trigger(self, attr, old, new, hint, setter)
        return
    name = self.lookup(attr).name
    document = self.document
    if document is None:
        _call(self, name, old, new)
        return
    manager = document.callbacks
    # While changes are held back, callbacks may still be added to those that will be called for this one.
    heard = name in self._callbacks or manager.hold_value is not None
    invoker = partial(_call, self, name, old, new) if heard else None
    manager.notify_change(self, name, old, new, hint, setter, invoker)


def _call(model: Model, attr: str, old: Any, new: Any) -> None:
    for callback in model._callbacks.get(attr, ()):
        callback(attr, old, new)


def prepare_value(
    self: Property[Any], owner: HasProps | type[HasProps], name: str, value: Any, *, hint: Any = None
) -> Any:
    """Stands in for `Property.prepare_value`, for values that need no conversion and no assertion."""
    if value is Intrinsic or value is Undefined or self.assertions:
        return _bokehs_prepare(self, owner, name, value, hint=hint)
    if Property._should_validate:
        try:
            self.validate(self._hinted_value(value, hint))
        except ValueError:
            return _bokehs_prepare(self, owner, name, value, hint=hint)
    return self.wrap(self.transform(value))


def matches(self: Property[Any], new: Any, old: Any) -> bool:
    """Stands in for `Property.matches`. Bokeh asks of each value whether it is one of numpy's, or of pandas'."""
    kind = type(new)
    if kind is type(old) and kind in _SCALARS:
        return bool(new == old)
    return _bokehs_matches(self, new, old)


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
