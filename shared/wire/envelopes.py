"""What workers say to each other over the bus.

Its channel says which messages a worker takes, and the channel's name which wire version they are of. Tags are part of
the wire: a new kind gets the next one, and none is used again.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import msgspec

from aperture.errors import WireError
from aperture.wire.accounts import AccountPart, Command, Outcome
from aperture.wire.node_figures import NodeFigures
from aperture.wire.records import Codec, Name, Number, Record

__all__ = [
    "MAX_ENVELOPE",
    "MAX_STORED",
    "Account",
    "Answer",
    "Chunk",
    "ChunkRequest",
    "CommandReply",
    "CommandRequest",
    "Envelope",
    "Figures",
    "Fragments",
    "FromClient",
    "Hostile",
    "Inquire",
    "Join",
    "Joined",
    "Leave",
    "Patches",
    "Probe",
    "Question",
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

Fragments = tuple[Any, ...]
"""A browser's message as it came over its websocket: text and bytes. msgspec's decoder does not tell these two apart in
one union, so `_check_fragments` does."""


class Envelope(Record, frozen=True):
    """Base of what is sent."""

    @staticmethod
    def unpack(payload: bytes, limit: int | None = None) -> Envelope:
        """The envelope in these bytes, all of its fields checked.

        Args:
            payload: the bytes.
            limit: of them; by default that of one publication.

        Raises:
            WireError: it is none of ours. The text quotes nothing of it.
        """
        if len(payload) > (MAX_ENVELOPE if limit is None else limit):
            raise WireError("too large")
        return _CODEC.unpack(payload)


class Relayed(Record, frozen=True):
    """One patch as its edges write it to their browsers.

    Args:
        frames: for everybody; empty if there is nothing for everybody.
        variants: instead of those, for some connections, by their ids.
        answers: the number of the message that a variant answers, for those variants that hold an answer.
    """

    frames: bytes
    variants: dict[str, bytes]
    answers: dict[str, Number]


class Patches(Envelope, frozen=True, tag=0):
    """On a session's channel: patches, of which the first has the sequence number `first`."""

    epoch: Number
    first: Number
    patches: tuple[Relayed, ...]

    @property
    def last(self) -> int:
        """The sequence number of the last patch."""
        return self.first + len(self.patches) - 1


class Probe(Envelope, frozen=True, tag=1):
    """On a session's channel: this is the last sequence number so far. An edge that misses one learns of it."""

    epoch: Number
    sequence: Number


class Stored(Envelope, frozen=True, tag=15):
    """On a session's channel: patches up to this number are in the stream, and too large to be published."""

    epoch: Number
    last: Number


class SessionEnded(Envelope, frozen=True, tag=2):
    """On a session's channel: close its connections with this code."""

    epoch: Number
    code: Number
    reason: str


class Join(Envelope, frozen=True, tag=3):
    """Edge to owner: a connection has opened.

    Args:
        token: its own, by which the owner knows whether its page has had the document before.
        from_browser: whether it may be a page that comes back.
    """

    session_key: str
    edge: str
    connection: str
    token: str
    from_browser: bool


class Leave(Envelope, frozen=True, tag=4):
    """Edge to owner: a connection has gone.

    Args:
        lost: without a word, so that its page may come back and the session is kept for it.
    """

    session_key: str
    edge: str
    connection: str
    lost: bool


class FromClient(Envelope, frozen=True, tag=5):
    """Edge to owner: a message of a browser, in its fragments.

    Args:
        number: counts the messages of the connection.
        seen: the sequence number of the last patch that the edge had written when the message came in.
        fragments: none if they are too large and have to be fetched, packed by `pack_fragments`.
        transfer: the name to fetch them by, or nothing.
        size: of what is to be fetched.
        trace: the trace that it belongs to, where traces are on.
    """

    session_key: str
    edge: str
    connection: str
    number: Number
    seen: Number
    fragments: Fragments
    transfer: str = ""
    size: Number = 0
    trace: str = ""

    def __post_init__(self) -> None:
        _check_fragments(self.fragments)


class Render(Envelope, frozen=True, tag=6):
    """Edge to owner: a call; make the page of this kind, with these arguments, for this user, if one is named."""

    session_key: str
    edge: str
    call: Number
    kind: str
    arguments: dict[str, str]
    user: str | None = None
    trace: str = ""


class Reply(Envelope, frozen=True, tag=7):
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
    epoch: Number
    connection: str
    number: Number
    after: Number
    frames: bytes
    live: bool
    transfer: str = ""
    size: Number = 0


class Joined(Envelope, frozen=True, tag=8):
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
    epoch: Number
    sequence: Number
    received: Number
    answered: Number


class Rendered(Envelope, frozen=True, tag=9):
    """Owner to edge: the answer to a `Render`. If not `ok`, the body says why.

    Args:
        call: that is answered.
        ok: whether it was rendered.
        theirs: False if the session is another user's.
        body: nothing if it is too large and has to be fetched.
        transfer: the name to fetch it by, or nothing.
        size: of what is to be fetched.
    """

    call: Number
    ok: bool
    body: bytes
    transfer: str = ""
    size: Number = 0
    theirs: bool = True


class Refused(Envelope, frozen=True, tag=10):
    """Owner to edge: close this connection with this code."""

    session_key: str
    connection: str
    code: Number
    reason: str


class Inquire(Envelope, frozen=True, tag=11):
    """Worker to worker: an operator wants to know what you have; of sessions, those whose id begins like this."""

    asker: Name
    call: Number
    prefix: str


class Account(Envelope, frozen=True, tag=12):
    """The answer to an `Inquire`, or a part of it."""

    call: Number
    part: AccountPart
    last: bool


class CommandRequest(Envelope, frozen=True, tag=13):
    """Worker to worker: an operator wants this done to a session of yours.

    Args:
        asker: who passes it on, and wants to know the outcome.
        call: a number for the answer.
    """

    asker: Name
    call: Number
    command: Command


class CommandReply(Envelope, frozen=True, tag=14):
    """The answer to a `CommandRequest`."""

    call: Number
    outcome: Outcome


class Figures(Envelope, frozen=True, tag=18):
    """The answer to an `Inquire` on the channel of figures."""

    call: Number
    node: NodeFigures


class Question(Envelope, frozen=True, tag=19):
    """Worker to worker, on the channel of questions: what do you have to say on this topic?"""

    asker: Name
    call: Number
    topic: Name


class Answer(Envelope, frozen=True, tag=20):
    """The answer to a `Question`: bytes whose form is the topic's own."""

    call: Number
    body: bytes


class ChunkRequest(Envelope, frozen=True, tag=16):
    """Worker to worker: send a chunk of what you offer, or, from its end on, know that all of it has come.

    Args:
        asker: who wants it.
        transfer: the name of the offer.
        start: of the chunk, in bytes.
    """

    asker: str
    transfer: str
    start: Number


class Chunk(Envelope, frozen=True, tag=17):
    """The answer to a `ChunkRequest`; empty if nothing of that name is offered."""

    transfer: str
    start: Number
    data: bytes


_CODEC = Codec(Envelope)


def pack_fragments(fragments: Fragments) -> bytes:
    """A browser's message as bytes, to be fetched in chunks."""
    return msgspec.msgpack.encode(fragments)


def unpack_fragments(packed: bytes) -> Fragments:
    """The message in these bytes.

    Raises:
        WireError: there is none.
    """
    try:
        fragments = msgspec.msgpack.decode(packed, type=Fragments)
        _check_fragments(fragments)
    except Exception:  # as in `Codec.unpack`
        raise WireError("not the fragments of a message") from None
    return fragments


def _check_fragments(fragments: Fragments) -> None:
    if not all(type(fragment) in (bytes, str) for fragment in fragments):
        raise ValueError("neither text nor bytes")


class Hostile:
    """Counts what is not an envelope, by where it came from, and logs the first of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, kind: str, problem: ValueError) -> None:
        """Note one.

        Args:
            kind: of the channel it came over: a word, never a channel's name, which holds a secret.
            problem: what `unpack`, or who read a stream, says of it.
        """
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            log.warning("dropped a message that is none of ours (%s: %s); further ones are only counted", kind, problem)
