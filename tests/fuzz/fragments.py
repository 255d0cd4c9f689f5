"""Messages in fragments: our assembler beside Bokeh's receiver, which is the looser of the two."""

from __future__ import annotations

import json
from typing import Any

from bokeh.protocol import Protocol
from bokeh.protocol.receiver import Receiver
from fuzz.target import Target

from aperture.errors import ProtocolError
from aperture.protocol.closing import MESSAGE_TOO_BIG, NO_TEXT, PROTOCOL_ERROR
from aperture.protocol.fragments import Assembler
from aperture.protocol.messages import Message

LIMIT = 3000

BINARY = b"\x01"
"""Begins a binary fragment of an input; fragments are parted by `CUT`."""

CUT = b"\x02\x03"

_PATCH = {"events": [{"kind": "ModelChanged", "model": {"id": "p1"}, "attr": "title", "new": "x"}]}


def _input(*fragments: str | bytes) -> bytes:
    return CUT.join(part.encode() if isinstance(part, str) else BINARY + part for part in fragments)


def _header(kind: str, **fields: object) -> str:
    return json.dumps({"msgid": "1", "msgtype": kind, **fields})


SEEDS = [
    _input(_header("PATCH-DOC"), "{}", json.dumps(_PATCH)),
    _input(_header("PATCH-DOC", num_buffers=1), "{}", json.dumps(_PATCH), '{"id":"b1"}', b"bytes"),
    _input(_header("PATCH-DOC", num_buffers=2), "{}", "{}", '{"id":"b1"}', b"x", '{"id":"b2"}', b"y"),
    _input(_header("OK", reqid="7"), "{}", "{}", _header("PULL-DOC-REQ"), "{}", "{}"),
    _input(_header("ERROR", reqid="7"), "{}", json.dumps({"text": "why", "traceback": None})),
    _input(_header("SERVER-INFO-REQ"), "{}", "{}"),
]

WORDS = [CUT, CUT + BINARY, b'"num_buffers":1', b'"num_buffers":-1', b'"reqid":', b"null", b"true", b'"id":', b"NaN"]
WORDS += [b"1e400", b"Infinity", b'"\\ud800"', b"[" * 50, b'{"id":"b1"}', b'"msgtype":"ACK",']


def check(drawn: bytes) -> bool:
    """What ours takes for a message is the same one to Bokeh, or none to it."""
    try:
        fragments = [_fragment(part) for part in drawn.split(CUT)]
    except UnicodeDecodeError:
        return False  # the websocket's layer refuses it
    ours = _assembled(fragments)
    for mine, theirs in zip(ours, _received(fragments), strict=False):
        _compare(mine, theirs)
    return bool(ours)


def _fragment(part: bytes) -> str | bytes:
    return part[1:] if part.startswith(BINARY) else part.decode()


def _assembled(fragments: list[str | bytes]) -> list[Message]:
    assembler, complete = Assembler(LIMIT), []
    for fragment in fragments:
        try:
            message = assembler.feed(fragment)
        except ProtocolError as problem:
            assert problem.close_code in (MESSAGE_TOO_BIG, NO_TEXT, PROTOCOL_ERROR)
            break
        if message is not None:
            complete.append(message)
    return complete


def _received(fragments: list[str | bytes]) -> list[Any]:
    """Stock's messages, up to its first error, whatever that is; its `consume` awaits nothing."""
    receiver, complete = Receiver(Protocol()), []
    for fragment in fragments:
        try:
            receiver.consume(fragment).send(None)
        except StopIteration as returned:
            if returned.value is not None:
                complete.append(returned.value)
        except Exception:
            break
    return complete


def _compare(ours: Message, theirs: Any) -> None:
    header = theirs.header
    assert (ours.msgid, ours.msgtype, ours.reqid) == (header["msgid"], header["msgtype"], header.get("reqid"))
    assert json.dumps(ours.content) == json.dumps(theirs.content)
    assert ours.buffers == {buffer.id: buffer.data for buffer in theirs.buffers}


FRAGMENTS = Target("fragments", SEEDS, check, WORDS)
