"""Strategies for records of the wire, read from their annotations and the bounds in these."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from msgspec import Meta

from aperture.wire.accounts import AccountPart, SessionRow
from aperture.wire.records import Record

__all__ = ["junk", "records", "texts"]

SIZE = 3
"""Items of a container, at most: what is wrong with more is wrong with these."""

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | texts
junk: st.SearchStrategy[Any] = st.deferred(
    lambda: scalars | st.lists(junk, max_size=3) | st.dictionaries(texts, junk, max_size=3)
)


def records(kind: type[Record]) -> st.SearchStrategy[Any]:
    """Any record of a kind."""
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: _field(kind, name, hints[name]) for name in kind.__struct_fields__})


def _field(kind: type[Record], name: str, hint: Any) -> st.SearchStrategy[Any]:
    """Of those that `__post_init__` checks, what it lets through."""
    if (kind, name) == (AccountPart, "sessions"):
        return st.lists(records(SessionRow).map(lambda row: row.shown), max_size=SIZE).map(tuple)
    return _values(hint)


def _values(hint: Any, meta: Meta | None = None) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Annotated:
        inner, meta = get_args(hint)
        return _values(inner, meta)
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(_values, inside))
    if origin is tuple and len(inside) == 2 and inside[1] is ...:
        item = st.binary() | texts if inside[0] is Any else _values(inside[0])
        return st.lists(item, max_size=SIZE).map(tuple)
    if origin is tuple:
        return st.tuples(*map(_values, inside))
    if origin in (dict, Mapping):
        return st.dictionaries(*map(_values, inside), max_size=SIZE)
    if isinstance(hint, type) and issubclass(hint, Record):
        return records(hint)
    return _scalars(hint, meta or Meta())


def _scalars(hint: Any, meta: Meta) -> st.SearchStrategy[Any]:
    if hint is int:
        return st.integers(meta.ge, meta.le) if meta.ge is not None else st.integers(-(2**63), 2**63 - 1)  # type: ignore[arg-type]
    if hint is float:
        return st.floats(meta.ge, meta.le)
    if hint is str:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=min(meta.max_length or 20, 20))
    return {bool: st.booleans(), bytes: st.binary(), type(None): st.none()}[hint]
