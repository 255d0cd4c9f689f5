"""The bytes of every message between our processes. A change here is a change of the wire: raise `WIRE_VERSION`."""

from __future__ import annotations

import pytest
from support.pinned_bytes import BUS, NODE

from aperture.errors import WireError
from aperture.version import WIRE_VERSION
from aperture.wire import node_messages
from aperture.wire.envelopes import Envelope
from aperture.wire.node_messages import NodeMessage


def name_of(value: object) -> str | None:
    """Parameters are shown by the name of their message; the bytes add nothing."""
    return None if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("message", "pinned"), NODE, ids=name_of)
def test_a_node_message_has_these_bytes(message: NodeMessage, pinned: str) -> None:
    """Written so and read so, the wire's version first."""
    assert message.pack().hex() == pinned
    assert NodeMessage.unpack(bytes.fromhex(pinned)) == message
    assert bytes.fromhex(pinned)[0] == WIRE_VERSION


@pytest.mark.parametrize(("envelope", "pinned"), BUS, ids=name_of)
def test_an_envelope_has_these_bytes(envelope: Envelope, pinned: str) -> None:
    """Written so and read so; the version of these is in the name of their channel."""
    assert envelope.pack().hex() == pinned
    assert Envelope.unpack(bytes.fromhex(pinned)) == envelope


def test_every_kind_is_pinned() -> None:
    """A new message is added to these, or its bytes could change unseen."""
    assert {type(message) for message, _ in NODE} == set(NodeMessage.__subclasses__())
    assert {type(envelope) for envelope, _ in BUS} == set(Envelope.__subclasses__())


@pytest.mark.parametrize("version", [b"", b"\0", bytes([WIRE_VERSION + 1]), b"\xc3", b"\x93\x01"])
def test_a_node_message_of_another_version_is_not_read(version: bytes) -> None:
    """However much the rest looks like one of ours; the last is how version 1 began."""
    rest = node_messages.Drain(closing=True).pack()[1:]
    with pytest.raises(WireError, match="of wire version"):
        NodeMessage.unpack(version + rest)
