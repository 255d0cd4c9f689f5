"""The bytes of every message between our processes. A change here is a change of the wire: raise `WIRE_VERSION`."""

from __future__ import annotations

import msgpack
import pytest

from aperture.version import WIRE_VERSION
from aperture.wire import envelopes, node_messages
from aperture.wire.envelopes import Envelope, Relayed
from aperture.wire.node_messages import Message

NODE: list[tuple[Message, str]] = [
    (
        node_messages.Adopt(3, b"GET / HTTP/1.1\r\n\r\n", ("10.0.0.1", 5000), True, "id", 7),
        "98010003c412474554202f20485454502f312e310d0a0d0a92a831302e302e302e31cd1388c3a2696407",
    ),
    (node_messages.HandBack(b"GET", None, False), "950101c403474554c0c2"),
    (node_messages.Hello(1, 2, 300), "9501020102cd012c"),
    (
        node_messages.Load(4, 5, 0.25, 1024, 6, bus_up=False, exhausted=True, bus_full=True),
        "9a01030405cb3fd0000000000000cd040006c2c3c3",
    ),
    (node_messages.Claimed(("a", "b")), "93010492a161a162"),
    (node_messages.Released(("a",)), "93010591a161"),
    (node_messages.Describe(8), "93010608"),
    (
        node_messages.SessionsAre(8, (("id", "/app", 9, 2, 1, 1.5),), last=True),
        "950107089196a26964a42f617070090201cb3ff8000000000000c3",
    ),
    (node_messages.Extensions(1, {"name": "/dir"}), "9401080181a46e616d65a42f646972"),
    (node_messages.ExtensionsAre(1, {"name": "/dir"}), "9401090181a46e616d65a42f646972"),
    (node_messages.WorkerDown(1, 2), "94010a0102"),
    (node_messages.NodeReady(8080), "93010bcd1f90"),
    (node_messages.Drain(closing=True), "93010cc3"),
    (node_messages.Crowded("id", crowded=True), "94010da26964c3"),
    (node_messages.Draining(), "92010e"),
    (node_messages.Others(2, "ab"), "94010f02a26162"),
    (node_messages.OthersAre(2, "node/0/x", b"part", last=False), "96011002a86e6f64652f302f78c40470617274c2"),
    (
        node_messages.Order(3, "move", "ab", "/app", "node/0/x", -1),
        "98011103a46d6f7665a26162a42f617070a86e6f64652f302f78ff",
    ),
    (node_messages.Acted(3, 200, "moved"), "95011203ccc8a56d6f766564"),
    (node_messages.Moved("id", 2), "940113a2696402"),
]

BUS: list[tuple[Envelope, str]] = [
    (envelopes.Patches(5, 6, (Relayed(b"f", {"c": b"v"}, {"c": 7}),)), "940005069193c4016681a163c4017681a16307"),
    (envelopes.Probe(5, 6), "93010506"),
    (envelopes.SessionEnded(5, 1012, "restart"), "940205cd03f4a772657374617274"),
    (envelopes.Join("/app\tid", "edge", "c", "token", inline=True), "9603a72f617070096964a465646765a163a5746f6b656ec3"),
    (envelopes.Leave("/app\tid", "edge", "c", lost=True), "9504a72f617070096964a465646765a163c3"),
    (
        envelopes.FromClient("/app\tid", "edge", "c", 1, 2, ("text", b"bytes")),
        "9905a72f617070096964a465646765a163010292a474657874c4056279746573a000",
    ),
    (
        envelopes.FromClient("/app\tid", "edge", "c", 1, 2, (), transfer="t", size=9, trace="trace"),
        "9a05a72f617070096964a465646765a163010290a17409a57472616365",
    ),
    (
        envelopes.Render("/app\tid", "edge", 4, "page", {"k": "v"}),
        "9606a72f617070096964a46564676504a47061676581a16ba176",
    ),
    (
        envelopes.Render("/app\tid", "edge", 4, "page", {}, "trace"),
        "9706a72f617070096964a46564676504a47061676580a57472616365",
    ),
    (envelopes.Reply("/app\tid", 5, "c", 1, 2, b"f", live=True), "9a07a72f61707009696405a1630102c40166c3a000"),
    (envelopes.Joined("/app\tid", "owner", "c", 5, 6, 7, 8), "9808a72f617070096964a56f776e6572a16305060708"),
    (envelopes.Rendered(4, ok=True, body=b"page"), "960904c3c40470616765a000"),
    (envelopes.Refused("/app\tid", "c", 4000, "why"), "950aa72f617070096964a163cd0fa0a3776879"),
    (envelopes.Inquire("asker", 1, "ab"), "940ba561736b657201a26162"),
    (envelopes.Account(1, "worker", b"part", last=True), "950c01a6776f726b6572c40470617274c3"),
    (envelopes.Command("asker", 1, "end", "ab", "/app", "2"), "970da561736b657201a3656e64a26162a42f617070a132"),
    (envelopes.Outcome(1, 200, "ended"), "940e01ccc8a5656e646564"),
    (
        envelopes.Reply("/app\tid", 5, "c", 1, 2, b"", live=True, transfer="t", size=9),
        "9a07a72f61707009696405a1630102c400c3a17409",
    ),
    (envelopes.Rendered(4, ok=True, body=b"", transfer="t", size=9), "960904c3c400a17409"),
    (envelopes.Stored(5, 6), "930f0506"),
    (envelopes.ChunkRequest("asker", "t", 3), "9410a561736b6572a17403"),
    (envelopes.Chunk("t", 3, b"data"), "9411a17403c40464617461"),
]


def name_of(value: object) -> str | None:
    """Parameters are shown by the name of their message; the bytes add nothing."""
    return None if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("message", "pinned"), NODE, ids=name_of)
def test_a_node_message_has_these_bytes(message: Message, pinned: str) -> None:
    """Written so and read so, the wire's version first."""
    assert message.pack().hex() == pinned
    assert Message.unpack(bytes.fromhex(pinned)) == message
    assert msgpack.unpackb(bytes.fromhex(pinned))[0] == WIRE_VERSION


@pytest.mark.parametrize(("envelope", "pinned"), BUS, ids=name_of)
def test_an_envelope_has_these_bytes(envelope: Envelope, pinned: str) -> None:
    """Written so and read so; the version of these is in the name of their channel."""
    assert envelope.pack().hex() == pinned
    assert Envelope.unpack(bytes.fromhex(pinned)) == envelope


def test_every_kind_is_pinned() -> None:
    """A new message is added above, or its bytes could change unseen."""
    assert {type(message) for message, _ in NODE} == set(node_messages._TYPES)
    assert {type(envelope) for envelope, _ in BUS} == set(envelopes._TYPES)


@pytest.mark.parametrize("version", [0, WIRE_VERSION + 1, True, "1", None])
def test_a_node_message_of_another_version_is_not_read(version: object) -> None:
    """However much the rest looks like one of ours."""
    _, *rest = msgpack.unpackb(node_messages.Drain(closing=True).pack())
    with pytest.raises(ValueError, match="of wire version"):
        Message.unpack(msgpack.packb([version, *rest]))
