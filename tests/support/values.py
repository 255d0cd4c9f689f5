"""Documents, and hypothesis strategies for whatever a Bokeh property or a data source can hold."""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import decimal
import enum
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from bokeh.colors import HSL, RGB, named
from bokeh.core.enums import LineDash
from bokeh.core.property.vectorization import Field, Value
from bokeh.document import Document
from bokeh.model import Model
from bokeh.models import Column, ColumnDataSource, Dodge
from bokeh.models.widgets import Button, Div, Slider
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

__all__ = ["BUTTON", "DOC", "KNOWN", "PARENT", "SOURCE", "columns", "leaves", "numbers", "patches", "values"]

DOC = Document()
KNOWN = Slider(start=0, end=1, value=0)
PARENT = Column(children=[KNOWN])
BUTTON = Button()
SOURCE = ColumnDataSource(data={"x": [1, 2], "y": [1.0, 2.0]})
DOC.add_root(PARENT)
DOC.add_root(SOURCE)

DTYPES = (
    "?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", ">f8", ">i4", ">u2", "<M8[ns]",
    "<M8[D]", "<m8[ms]", "U3",
)  # fmt: skip


@dataclasses.dataclass
class Shape:
    """A dataclass, for Bokeh encodes those as objects."""

    sides: Any
    names: Any = None


E = enum.Enum("E", "a")


class Level(enum.IntEnum):
    LOW = 1


class Tag(str):
    __slots__ = ()


def arrays() -> st.SearchStrategy[Any]:
    """Arrays of every kind of dtype, and of 0 to 3 dimensions."""
    return st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    )


def views() -> st.SearchStrategy[Any]:
    """Arrays whose memory is not in order."""
    return (
        arrays()
        .filter(lambda found: found.ndim)
        .flatmap(
            lambda found: st.sampled_from([found[::-1], found[::2], found.T, np.asfortranarray(found), found[..., :1]])
        )
    )


def frames() -> st.SearchStrategy[Any]:
    """What pandas makes of columns."""
    numbers = st.lists(st.none() | st.floats() | st.integers(-5, 5), max_size=4)
    words = st.lists(st.sampled_from(["a", "b"]), max_size=4)
    moments = st.lists(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)), max_size=4)
    return st.one_of(
        numbers.map(lambda items: pd.Series(items, dtype="float64")),
        numbers.map(lambda items: pd.Series(items, dtype="object")),
        st.lists(st.none() | st.integers(-5, 5), max_size=4).map(lambda items: pd.array(items, dtype="Int64")),
        st.lists(st.none() | st.booleans(), max_size=4).map(lambda items: pd.Series(items, dtype="boolean")),
        words.map(lambda items: pd.Series(items, dtype="category")),
        words.map(pd.Categorical),
        words.map(lambda items: pd.Index(items, dtype="object")),
        words.map(lambda items: pd.Series(items, dtype="string")),
        moments.map(pd.DatetimeIndex),
        moments.map(lambda items: pd.Series(items, dtype="datetime64[ns]")),
        moments.map(lambda items: pd.Series(items, dtype="datetime64[ns]").dt.tz_localize("UTC")),
        moments.map(lambda items: pd.PeriodIndex(items, freq="D")),
        st.just(pd.timedelta_range(0, periods=3)),
        st.just(pd.RangeIndex(5)),
        st.sampled_from(
            [pd.NA, pd.NaT, pd.Timestamp(5, unit="s"), pd.Timedelta(3, unit="h"), pd.Period("2024-01", "M")]
        ),
    )


def numbers() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.sampled_from(
            [2**53 - 1, 2**53, -(2**53) + 1, -(2**53), 2**64, 10**400, -0.0, 1e308, Level.LOW, Fraction(1, 3)]
        ),
    )


def times() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.datetimes(),
        st.datetimes(timezones=st.just(dt.UTC)),
        st.dates(),
        st.times(),
        st.timedeltas(),
        st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)).map(np.datetime64),
        st.integers(-(10**9), 10**9).map(lambda count: np.timedelta64(count, "ms")),
        st.just(np.datetime64("NaT")),
    )


def others() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.text(),
        st.text(st.characters(exclude_categories=())),
        st.binary(max_size=20),
        st.builds(RGB, st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.floats(0, 1)),
        st.sampled_from([named.red, HSL(10, 0.5, 0.5), *LineDash, Tag("tag"), np.str_("np")]),
        st.builds(slice, st.none() | st.integers(-5, 5), st.none() | st.integers(), st.none() | st.integers(1, 5)),
        st.sampled_from("bBhHiIfdq").map(lambda code: array.array(code, [1, 2, 3])),
        st.sampled_from([np.float64, np.float32, np.int64, np.int32, np.uint64, np.bool_]).map(lambda kind: kind(1)),
        st.sampled_from([np.float64("nan"), np.float32("inf"), np.array(5), np.array("s")]),
        st.sampled_from([KNOWN, PARENT, SOURCE, Slider, Model]),
        st.builds(Div, text=st.text(max_size=5)),
        st.builds(lambda: Column(children=[KNOWN, Div()])),
        st.sampled_from(
            [Value(5), Value(np.nan), Field("x"), Field("x", transform=Dodge(value=1)), Value(1, units="screen")]
        ),
        st.sampled_from(
            [np.ma.masked_array([1.0, 2.0], [True, False]), np.array([1, "a", None, np.nan], dtype=object)]
        ),
        st.sampled_from(
            [np.array([dt.date(2024, 1, 1)], dtype=object), np.array([2**60, 1]), np.array([], dtype=np.int64)]
        ),
        st.sampled_from([decimal.Decimal(1), 1j, object(), frozenset([1]), Level, *E, dt.UTC, range(3)]),
    )


def leaves() -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), numbers(), times(), others(), arrays(), views(), frames())


def values() -> st.SearchStrategy[Any]:
    """Anything that a property could hold, nested."""
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(st.text(max_size=3) | st.integers(-9, 9) | st.floats() | st.none(), inner, max_size=4),
            st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), inner, max_size=3).map(
                lambda d: SimpleNamespace(**d)
            ),
            st.builds(Shape, inner, inner),
            st.builds(Value, inner),
        ),
        max_leaves=8,
    )


def columns() -> st.SearchStrategy[dict[str, Any]]:
    """What a data source may hold: lists of one kind, arrays, pandas columns."""
    lists = st.one_of(
        *(st.lists(kind, max_size=6) for kind in (numbers(), st.floats(), st.text(), times(), st.booleans()))
    )
    nested = st.lists(
        st.lists(st.floats() | st.integers(), max_size=4) | st.tuples(st.floats(), st.text(max_size=1)), max_size=4
    )
    return st.dictionaries(
        st.text(max_size=3), lists | nested | arrays() | views() | frames() | st.sets(st.integers()), max_size=4
    )


def patches() -> st.SearchStrategy[dict[str, Any]]:
    where = (
        st.integers(0, 9)
        | st.builds(slice, st.integers(0, 3), st.integers(4, 9))
        | st.tuples(st.integers(0, 3), st.integers(0, 3))
    )
    return st.dictionaries(st.text(max_size=3), st.lists(st.tuples(where, values()), max_size=4), max_size=3)
