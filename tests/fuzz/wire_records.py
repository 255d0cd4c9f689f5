"""What processes say to each other: any client of Redis can write to its channels, and an older node to a socket."""

from __future__ import annotations

import msgpack
from fuzz.target import Target
from support.pinned_bytes import BUS, NODE

from aperture.errors import WireError
from aperture.version import WIRE_VERSION
from aperture.wire.envelopes import Envelope
from aperture.wire.node_messages import NodeMessage

WORDS = [bytes([lead]) for lead in range(0x80, 0xE0, 5)]
WORDS += [b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf0" + b"\0" * 6, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xdd\xff\xff\xff\xff"]
WORDS += [b"\x91" * 40, b"\xc6\xff\xff\xff\xff", b"\xd9\xff", b"\xa2\xed\xa0", b"\xc7\x08\xff", b"\xd6\xff\0\0\0\0"]


def check_envelope(payload: bytes) -> bool:
    """What is accepted says the same when it is packed again, to another reader of msgpack, too."""
    try:
        envelope = Envelope.unpack(payload)
    except WireError:
        return False
    again = envelope.pack()
    assert Envelope.unpack(again) == envelope
    assert _same(_read(payload), _read(again))
    return True


def check_node_message(datagram: bytes) -> bool:
    """The same for what comes over the sockets of a node."""
    try:
        message = NodeMessage.unpack(datagram)
    except WireError:
        return False
    again = message.pack()
    assert datagram[0] == again[0] == WIRE_VERSION
    assert NodeMessage.unpack(again) == message
    assert _same(_read(datagram[1:]), _read(again[1:]))
    return True


def _read(payload: bytes) -> object:
    # Tuples: a key of a map may be one.
    value: object = msgpack.unpackb(payload, strict_map_key=False, use_list=False)
    return value


def _same(sent: object, again: object) -> bool:
    """Equal; and of a whole number where a figure is due, the nearest that a figure can be, beyond 2^53."""
    if isinstance(sent, tuple) and isinstance(again, tuple):
        return len(sent) == len(again) and all(map(_same, sent, again))
    if isinstance(sent, dict) and isinstance(again, dict):
        return _same(tuple(sent.items()), tuple(again.items()))
    return again == (float(sent) if isinstance(again, float) and isinstance(sent, int) else sent)


ENVELOPES = Target("envelopes", [bytes.fromhex(pinned) for _, pinned in BUS], check_envelope, WORDS)
NODE_MESSAGES = Target("node-messages", [bytes.fromhex(pinned) for _, pinned in NODE], check_node_message, WORDS)
