"""The mapping that an app keeps its own values in, wherever its document is served."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections import OrderedDict
from typing import Any, cast

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.document.locking import UnlockedDocumentProxy
from bokeh.io import curdoc
from bokeh.io.doc import patch_curdoc
from hypothesis import given
from hypothesis import strategies as st
from support.patience import seconds

from aperture import session_state
from aperture.app_state import DEPTH_LIMIT, pack_value, unpack_value


class Colour(str, enum.Enum):  # noqa: UP042  # as apps still write it
    RED = "red"


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(st.characters(categories=["Cs"]))
    | st.binary()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 2**63), inner), max_leaves=20
)


@given(values)
def test_what_is_kept_comes_back_as_it_was(value: Any) -> None:
    """With the types that it had."""
    back = unpack_value(pack_value(value))
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i2").reshape(2, 3).T,
        np.array([1.5, np.nan, np.inf]),
        np.array(3),
        np.zeros((0, 4), dtype=np.float32),
        np.array([True, False]),
        np.array(["a", "ünd"]),
        np.array([b"x"]),
        np.array([1 + 2j]),
        np.array(["2020-01-01", "NaT"], dtype="datetime64[ns]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_come_back_with_their_type_and_shape(array: np.ndarray[Any, Any]) -> None:
    """Also inside of lists and maps, and read-only: a change in place would be lost."""
    back = unpack_value(pack_value({"in": [array]}))["in"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2,)), [1, [2]]),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("s"), "s"),
        (Colour.RED, "red"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (bytearray(b"x"), b"x"),
    ],
)
def test_relatives_become_plain_at_once(value: Any, plain: Any) -> None:
    """Not only after the session has moved."""
    state = session_state(Document())
    state["it"] = value
    assert state["it"] == plain
    assert type(state["it"]) is type(plain)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1, 2}, "set"),
        (Document(), "bokeh.document.document.Document"),
        ([{"deep": object()}], "object"),
        ({1.5: 2}, "float"),
        (np.array([object()]), "object"),
        (np.zeros(2, dtype="i4,f8"), "numpy.ndarray"),
        (np.ma.array([1], mask=[True]), "MaskedArray"),
        (lambda: None, "function"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_name(value: object, named: str) -> None:
    """When it is assigned, where the app's author sees it; what was there before stays."""
    state = session_state(Document())
    state["it"] = "before"
    with pytest.raises(TypeError, match=named):
        state["it"] = value
    assert state["it"] == "before"


def test_numbers_and_nesting_have_their_bounds() -> None:
    """A list that holds itself does not end the process."""
    endless: list[object] = []
    endless.append(endless)
    for value in (2**64, -(2**63) - 1, endless):
        with pytest.raises(ValueError, match="session state keeps"):
            pack_value(value)
    deep: list[object] = []
    for _ in range(DEPTH_LIMIT):
        deep = [deep]
    assert unpack_value(pack_value(deep)) == deep


def test_keys_are_text() -> None:
    """Also those of an Enum, which are kept as what they mean."""
    state = session_state(Document())
    with pytest.raises(TypeError, match="int"):
        state[1] = 2  # type: ignore[index]
    state[Colour.RED] = 1
    assert list(state) == ["red"]
    assert cast("Any", 1) not in state


def test_what_is_read_is_a_copy() -> None:
    """So that a change in place that would not be written down shows at once."""
    state = session_state(Document())
    mine = [1]
    state["list"] = mine
    mine.append(2)
    state["list"].append(3)
    assert state["list"] == [1]


def test_it_is_a_mapping() -> None:
    """With everything that a dict has."""
    state = session_state(Document())
    state.update(a=1, b=2)
    assert state.setdefault("c", 3) == 3
    assert state.setdefault("a", 9) == 1
    assert state.pop("b") == 2
    assert dict(state) == {"a": 1, "c": 3} == state
    assert "c" in state
    del state["a"]
    with pytest.raises(KeyError):
        del state["a"]
    state.clear()
    assert len(state) == 0


def test_each_document_has_its_own() -> None:
    """The current one's, if none is named; and the same through the proxy that callbacks without a lock see."""
    one, two = Document(), Document()
    session_state(one)["n"] = 1
    assert session_state(two) == {}
    with patch_curdoc(two):
        assert session_state() is session_state(two)
        assert curdoc() is two
    assert session_state(UnlockedDocumentProxy(one)) is session_state(one)  # type: ignore[arg-type]


def test_importing_aperture_imports_no_bokeh() -> None:
    """The supervisor and the command line start without it."""
    code = "import sys, aperture; assert 'bokeh' not in sys.modules; aperture.session_state; aperture.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds(60))
    assert "has no attribute 'nothing'" in done.stderr, done.stderr
