"""What workers say to each other over the bus: frozen dataclasses, packed with msgpack.

Anybody who can write to Redis can write anything, and two versions may run side by side for the time of an upgrade; so
every envelope is checked in full, type by type, before any of it is believed. The class's place in `_TYPES` is its code
on the wire: new ones are added at the end.
"""

from __future__ import annotations

import logging
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgpack

__all__ = [
    "MAX_ENVELOPE",
    "MAX_STORED",
    "Account",
    "Chunk",
    "ChunkRequest",
    "Command",
    "Envelope",
    "Fragments",
    "FromClient",
    "Hostile",
    "Inquire",
    "Join",
    "Joined",
    "Leave",
    "Outcome",
    "Patches",
    "Probe",
    "Refused",
    "Relayed",
    "Render",
    "Rendered",
    "Reply",
    "SessionEnded",
    "Stored",
    "pack_fragments",
    "unpack_fragments",
]

log = logging.getLogger(__name__)

MAX_ENVELOPE = 4 * 1024 * 1024
"""Bytes of one publication: what is larger is stored or fetched in parts, of a megabyte at most."""

MAX_STORED = 256 * 1024 * 1024
"""Bytes of patches that are read from a stream in parts; as large as a document that may cross workers."""

MAX_NUMBER = 2**63
"""Exclusive bound of every number here; none is negative."""

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Envelope:
    """Base of what is sent."""

    def pack(self) -> bytes:
        """This envelope as bytes."""
        # A reason may quote anything; nothing else that is text can hold what UTF-8 does not have.
        packed: bytes = msgpack.packb([_CODES[type(self)], *_values(self)], use_bin_type=True, unicode_errors="replace")
        return packed

    @staticmethod
    def unpack(payload: bytes, limit: int | None = None) -> Envelope:
        """The envelope in these bytes, all of its fields checked.

        Args:
            payload: the bytes.
            limit: of them; by default that of one publication.

        Raises:
            ValueError: it is none of ours, and nothing else is ever raised. The text quotes nothing of it.
        """
        if len(payload) > (MAX_ENVELOPE if limit is None else limit):
            raise ValueError("too large")
        try:
            unpacked = msgpack.unpackb(payload, use_list=False, raw=False)
        except Exception:  # what a stranger can provoke in a decoder is more than its documentation lists
            raise ValueError("not msgpack") from None
        return _built(unpacked)


@dataclass(frozen=True, slots=True)
class Relayed:
    """One patch as its edges write it to their browsers.

    Args:
        frames: for everybody; empty if there is nothing for everybody.
        variants: instead of those, for some connections, by their ids.
        answers: the number of the message that a variant answers, for those variants that hold an answer.
    """

    frames: bytes
    variants: dict[str, bytes]
    answers: dict[str, int]


@dataclass(frozen=True, slots=True)
class Patches(Envelope):
    """On a session's channel: patches, of which the first has the sequence number `first`."""

    epoch: int
    first: int
    patches: tuple[Relayed, ...]

    @property
    def last(self) -> int:
        """The sequence number of the last patch."""
        return self.first + len(self.patches) - 1


@dataclass(frozen=True, slots=True)
class Probe(Envelope):
    """On a session's channel: this is the last sequence number so far. Whoever misses one learns of it."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Stored(Envelope):
    """On a session's channel: patches up to this number are in the stream, and too large to be published."""

    epoch: int
    last: int


@dataclass(frozen=True, slots=True)
class SessionEnded(Envelope):
    """On a session's channel: close its connections with this code."""

    epoch: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Join(Envelope):
    """Edge to owner: a connection has opened. `token` is its own, for the owner to verify.

    `inline` asks for pulls with their buffers inside of the JSON.
    """

    session_key: str
    edge: str
    connection: str
    token: str
    inline: bool


@dataclass(frozen=True, slots=True)
class Leave(Envelope):
    """Edge to owner: a connection has gone.

    Args:
        lost: without a word, so that its page may come back and the session is kept for it.
    """

    session_key: str
    edge: str
    connection: str
    lost: bool


@dataclass(frozen=True, slots=True)
class FromClient(Envelope):
    """Edge to owner: a message of a browser, in its fragments.

    Args:
        number: counts the messages of the connection.
        seen: the sequence number of the last patch that the edge had written when the message came in.
        fragments: none if they are too large and have to be fetched, packed by `pack_fragments`.
        transfer: the name to fetch them by, or nothing.
        size: of what is to be fetched.
        trace: the trace that it belongs to, where somebody traces.
    """

    session_key: str
    edge: str
    connection: str
    number: int
    seen: int
    fragments: tuple[bytes | str, ...]
    transfer: str = ""
    size: int = 0
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Render(Envelope):
    """Edge to owner: a call; make the page of this kind, with these arguments."""

    session_key: str
    edge: str
    call: int
    kind: str
    arguments: dict[str, str]
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Reply(Envelope):
    """Owner to edge: the answer to a `FromClient`.

    Args:
        number: of the message that is answered.
        after: the sequence number of the last patch that must be written before it.
        frames: of the answer; none if they are too large and have to be fetched.
        live: whether the connection gets patches from then on.
        transfer: the name to fetch the frames by, or nothing.
        size: of what is to be fetched.
    """

    session_key: str
    epoch: int
    connection: str
    number: int
    after: int
    frames: bytes
    live: bool
    transfer: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Joined(Envelope):
    """Owner to edge: the answer to a `Join`, and said again whenever messages may have been lost.

    Args:
        owner: who says so.
        sequence: of the last patch so far.
        received: the number of the connection's last message that came.
        answered: the number of the last one that was answered.
    """

    session_key: str
    owner: str
    connection: str
    epoch: int
    sequence: int
    received: int
    answered: int


@dataclass(frozen=True, slots=True)
class Rendered(Envelope):
    """Owner to edge: the answer to a `Render`. If not `ok`, the body says why.

    Args:
        call: that is answered.
        ok: whether it was rendered.
        body: nothing if it is too large and has to be fetched.
        transfer: the name to fetch it by, or nothing.
        size: of what is to be fetched.
    """

    call: int
    ok: bool
    body: bytes
    transfer: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Refused(Envelope):
    """Owner to edge: close this connection with this code."""

    session_key: str
    connection: str
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Inquire(Envelope):
    """Worker to worker: an operator wants to know what you have; of sessions, those whose id begins like this."""

    asker: str
    call: int
    prefix: str


@dataclass(frozen=True, slots=True)
class Account(Envelope):
    """The answer to an `Inquire`, or a part of it, as `aperture.wire.accounts` packs it."""

    call: int
    worker: str
    part: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Command(Envelope):
    """Worker to worker: an operator wants this session of yours ended or moved.

    Args:
        asker: who passes it on, and wants to know what became of it.
        call: a number for the answer.
        action: "end" or "move".
        prefix: how the session's id begins.
        app: the session's app.
        to: the place in its node to move it to, as text; empty for any other.
    """

    asker: str
    call: int
    action: str
    prefix: str
    app: str
    to: str


@dataclass(frozen=True, slots=True)
class Outcome(Envelope):
    """The answer to a `Command`: a status of HTTP and a sentence."""

    call: int
    status: int
    text: str


@dataclass(frozen=True, slots=True)
class ChunkRequest(Envelope):
    """Worker to worker: send a chunk of what you offer, or, from its end on, know that all of it has come.

    Args:
        asker: who wants it.
        transfer: the name of the offer.
        start: of the chunk, in bytes.
    """

    asker: str
    transfer: str
    start: int


@dataclass(frozen=True, slots=True)
class Chunk(Envelope):
    """The answer to a `ChunkRequest`; empty if nothing of that name is offered."""

    transfer: str
    start: int
    data: bytes


_TYPES: tuple[type[Envelope], ...] = (
    Patches,
    Probe,
    SessionEnded,
    Join,
    Leave,
    FromClient,
    Render,
    Reply,
    Joined,
    Rendered,
    Refused,
    Inquire,
    Account,
    Command,
    Outcome,
    Stored,
    ChunkRequest,
    Chunk,
)
_CODES = {cls: code for code, cls in enumerate(_TYPES)}


Fragments = tuple[bytes | str, ...]
"""A browser's message as it came over its websocket."""


def pack_fragments(fragments: Fragments) -> bytes:
    """A browser's message as bytes, to be fetched in chunks."""
    packed: bytes = msgpack.packb(fragments, use_bin_type=True)
    return packed


def unpack_fragments(packed: bytes) -> Fragments:
    """The message in these bytes.

    Raises:
        ValueError: there is none.
    """
    try:
        fragments = msgpack.unpackb(packed, use_list=False, raw=False)
    except Exception:  # as in `Envelope.unpack`
        raise ValueError("not msgpack") from None
    if type(fragments) is not tuple or not all(type(part) in (bytes, str) for part in fragments):
        raise ValueError("not the fragments of a message")
    return fragments


class Hostile:
    """Counts what is not an envelope, by where it came from, and logs the first of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, kind: str, problem: ValueError) -> None:
        """Note one.

        Args:
            kind: of the channel it came over: a word, never a channel's name, which holds a secret.
            problem: what `unpack` said.
        """
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            log.warning("dropped a message that is none of ours (%s: %s); further ones are only counted", kind, problem)


# Packing and checking


def _values(sent: Any) -> list[Any]:
    values = [_plain(getattr(sent, name)) for name in _SHAPES[type(sent)].names]
    if _SHAPES[type(sent)].optional and values[-1] == "":
        values.pop()  # whoever does not trace sends what versions without traces understand
    return values


def _plain(value: Any) -> Any:
    if type(value) is tuple:
        return [_values(item) if type(item) is Relayed else item for item in value]
    return value


@dataclass(frozen=True, slots=True)
class _Shape:
    names: tuple[str, ...]
    checks: tuple[Check, ...]
    optional: bool
    """The last field is a text that is left out where it is empty."""


def _built(unpacked: Any) -> Envelope:
    if type(unpacked) is not tuple or not unpacked:
        raise ValueError("not an envelope")
    code, *values = unpacked
    if type(code) is not int or not 0 <= code < len(_TYPES):
        raise ValueError("of an unknown kind")
    kind = _TYPES[code]
    _verify(kind, values)
    if kind is Patches:
        values[2] = tuple(Relayed(*patch) for patch in values[2])
    return kind(*values)


def _verify(kind: type, values: Any) -> None:
    shape = _SHAPES[kind]
    if shape.optional and len(values) == len(shape.names) - 1:
        values.append("")
    elif shape.optional and values and values[-1] == "":
        raise ValueError(f"{kind.__name__} with an empty last field")
    if len(values) != len(shape.names):
        raise ValueError(f"{kind.__name__} with {len(values)} fields")
    for name, check, value in zip(shape.names, shape.checks, values, strict=True):
        if not check(value):
            raise ValueError(f"{kind.__name__}.{name} is not what it has to be")


def _is_relayed(value: Any) -> bool:
    shape = _SHAPES[Relayed]
    return (
        type(value) is tuple
        and len(value) == len(shape.names)
        and all(check(part) for check, part in zip(shape.checks, value, strict=True))
    )


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_NUMBER


def _check_of(hint: Any) -> Check:
    """What says whether an unpacked value is of an annotated type; exact, as `True` is no number here."""
    if hint is int:
        return _is_number
    if hint is Relayed:
        return _is_relayed
    if hint in (str, bytes, bool):
        return lambda value: type(value) is hint
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        allowed = frozenset(inner)
        return lambda value: type(value) in allowed
    if origin is tuple:
        item = _check_of(inner[0])
        return lambda value: type(value) is tuple and all(map(item, value))
    if origin is dict:
        key, entry = map(_check_of, inner)
        return lambda value: type(value) is dict and all(map(key, value)) and all(map(entry, value.values()))
    raise AssertionError(f"no check for {hint}")


def _shape_of(cls: type) -> _Shape:
    hints = get_type_hints(cls)
    names = tuple(f.name for f in fields(cls))
    return _Shape(names, tuple(_check_of(hints[name]) for name in names), names[-1] == "trace")


_CHECKED: tuple[type, ...] = (Relayed, *_TYPES)
_SHAPES: dict[type, _Shape] = {cls: _shape_of(cls) for cls in _CHECKED}
