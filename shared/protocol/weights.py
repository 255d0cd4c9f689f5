"""How much work a model of a class is to make: the number of its properties, and something for being a model.

Bokeh looks at each property of a model that it makes, and makes the models that are defaults of others, which count,
too. So the time and the memory follow this number: 10 to 15 us and 100 to 300 bytes for one, over Bokeh's classes. A
`LinearScale` has 16, a `Div` 43, a `Figure` some 270. It does not depend on how busy the machine is, as a clock would.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from bokeh.core.has_props import HasProps
from bokeh.core.types import ID
from bokeh.model import Model

from aperture.bokeh_versions import new_model

__all__ = ["weight_of"]

_MODEL = 10
"""What a model counts beside its properties: the smallest ones take 100 us and 3 KB."""

_weights: WeakKeyDictionary[type[Model], int] = WeakKeyDictionary()
"""Weak: each session of an app's code makes its classes anew."""


def weight_of(cls: type[Model]) -> int:
    """The weight of a model of the class. Makes one and drops it, at the first question."""
    weight = _weights.get(cls)
    if weight is None:
        # As a decoder makes it, so that no constructor of an app's class runs.
        sample = new_model(cls, ID("sample"))
        HasProps.__init__(sample)
        weight = _weights[cls] = _weigh(sample)
    return weight


def _weigh(value: Any) -> int:
    if isinstance(value, HasProps):
        return _MODEL + len(value.properties()) + sum(map(_weigh, value._unstable_default_values.values()))
    if isinstance(value, list | tuple):
        return sum(map(_weigh, value))
    if isinstance(value, dict):
        return sum(map(_weigh, value.values()))
    return 0
