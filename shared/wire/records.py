"""The one codec of what our processes say to each other: frozen records out as msgpack, checked records in.

A record is an array of its fields, in their order; the kinds of one family, of which any may come, have their tag ahead
of them. Anybody who can write to Redis can write anything, so each field is checked against its annotation, to the
bounds in it, before any of it is believed. msgspec does that in C while it decodes: exact types, nothing missing,
nothing more, no memory for announced sizes that are not there.
"""

from __future__ import annotations

import re
from functools import reduce
from operator import or_
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from aperture.errors import WireError

__all__ = ["Codec", "Figure", "Name", "Number", "Record", "Text"]

MAX_NUMBER = 2**63
"""Exclusive bound of every number; Redis counts no further."""

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER - 1)]
Figure = Annotated[float, msgspec.Meta(ge=0, le=MAX_NUMBER)]
"""Neither negative nor infinite nor NaN, which JSON has no words for."""

Name = Annotated[str, msgspec.Meta(max_length=300)]
"""Of a node, a worker, a process or a metric."""

Text = Annotated[str, msgspec.Meta(max_length=1024)]
"""A route or a session id."""


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of whatever is on the wire. Immutable, equal by value; `msgspec.structs.replace` copies with changes."""

    def pack(self) -> bytes:
        """This record as bytes."""
        try:
            return _encoder.encode(self)
        except UnicodeEncodeError:
            # A reason may quote anything, also half of a surrogate pair; it is for people, who do not miss that.
            return _encoder.encode(_printable(msgspec.to_builtins(self, builtin_types=(bytes,))))


R = TypeVar("R", bound=Record)


class Codec(Generic[R]):
    """Decodes the kinds of one family.

    Args:
        family: the base of all kinds, which are its subclasses, each with its tag.
    """

    def __init__(self, family: type[R]) -> None:
        self.kinds: dict[int, type[R]] = {kind.__struct_config__.tag: kind for kind in family.__subclasses__()}  # type: ignore[misc]
        """Every kind by its tag."""
        self._decoder = msgspec.msgpack.Decoder[R](reduce(or_, self.kinds.values()))

    def unpack(self, payload: bytes) -> R:
        """The record in these bytes, all of its fields checked.

        Raises:
            WireError: it is none of this family. The text quotes nothing of it.
        """
        try:
            record = self._decoder.decode(payload)
        except msgspec.ValidationError as problem:
            raise WireError(self._reason(payload, str(problem))) from None
        except Exception:  # what a stranger can provoke in a decoder is more than its documentation lists
            raise WireError("not msgpack") from None
        # Defaults are for those who send; the decoder takes them for leave to omit fields.
        if payload[0] != _ARRAY + 1 + len(record.__struct_fields__):
            raise WireError(f"{type(record).__name__}: fewer fields than it has")
        return record

    def _reason(self, payload: bytes, problem: str) -> str:
        """What is wrong with which field, of msgspec's words those that quote nothing: `Patches.first: Expected …`."""
        try:
            kind = self.kinds[_tags.decode(payload).tag]
        except Exception:
            return "of no known kind"
        what, _, path = problem.partition(" - at ")
        place = _FIELD.search(path)
        field = f".{kind.__struct_fields__[int(place[1]) - 1]}" if place else ""
        return f"{kind.__name__}{field}: {what if what.startswith('Expected') else 'a value that it cannot have'}"


class _Tagged(msgspec.Struct, array_like=True):
    """What every kind begins with; more is passed over."""

    tag: int


_ARRAY = 0x90
"""Of msgpack, the first byte of an array; its length, up to 15, is added."""

_FIELD = re.compile(r"\$\[(\d+)\]")
_encoder = msgspec.msgpack.Encoder()
_tags = msgspec.msgpack.Decoder(_Tagged)


def _printable(value: Any) -> Any:
    """The same without what UTF-8 cannot say."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list() | tuple():
            return [_printable(part) for part in value]
        case dict():
            return {_printable(key): _printable(part) for key, part in value.items()}
    return value
