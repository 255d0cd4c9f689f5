"""JSON with lone surrogates in it, written and read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture.protocol.json_text import presentable, read_json, write_json

any_text = st.text(st.characters(exclude_categories=()))
any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)


@given(any_json)
def test_what_is_written_is_read_again(value: Any) -> None:
    """By this, and by the standard library; two halves of a pair are one character on the way."""
    text = write_json(value)
    assert read_json(text) == read_json(text.decode()) == json.loads(text)
    assert read_json(write_json("caf\udce9")) == "caf\udce9"


@pytest.mark.parametrize("text", ["", "{", "NaN", '["\\ud800", NaN]', '"\\ud800', b'"\\ud800\xff"', b'"\xed\xa0\x80"'])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    """Also where a lone surrogate makes the more lenient parser look at it."""
    with pytest.raises(ValueError):
        read_json(text)


def test_what_is_nested_too_deeply_is_refused() -> None:
    """As a ValueError, like all else."""
    with pytest.raises(ValueError, match=r"deep|recursion"):
        read_json("[" * 100_000 + '"\\ud800"' + "]" * 100_000)


@given(any_text)
def test_what_is_presented_can_be_sent(text: str) -> None:
    """And is the text itself, if that can be."""
    shown = presentable(text)
    shown.encode()
    assert len(shown) <= len(text)
    if "\ufffd" not in shown:
        assert shown == text or len(shown) < len(text)


def test_a_lone_surrogate_is_shown_as_browsers_show_it() -> None:
    """One replacement character for each."""
    assert presentable("caf\udce9 \ud83d\ude00 \ud800") == "caf\ufffd \U0001f600 \ufffd"
