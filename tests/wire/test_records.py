"""The codec: what goes in comes out, of both families; and what a stranger sends goes nowhere, and is named."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import junk, records

from aperture.errors import WireError
from aperture.wire.accounts import SessionRow
from aperture.wire.envelopes import Envelope
from aperture.wire.node_messages import Adopt, NodeMessage
from aperture.wire.records import Record

FAMILIES = (Envelope, NodeMessage)
KINDS = [kind for family in FAMILIES for kind in family.__subclasses__()]
any_record = st.sampled_from(KINDS).flatmap(records)


def family_of(record: Record) -> type[Envelope] | type[NodeMessage]:
    return Envelope if isinstance(record, Envelope) else NodeMessage


def read(family: type[Envelope] | type[NodeMessage], payload: bytes) -> Record | None:
    """The record, or None; what is raised beside WireError fails the test."""
    try:
        return family.unpack(payload)
    except WireError:
        return None


def payload_of(family: type[Any], value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed if family is Envelope else Adopt(1, b"", None, False, None, 1).pack()[:1] + packed


@given(any_record)
def test_what_was_packed_is_unpacked(sent: Any) -> None:
    """Every field of every kind, with its exact type."""
    received = family_of(sent).unpack(sent.pack())
    assert received == sent
    assert type(received) is type(sent)


@given(any_record, st.data())
def test_damage_raises_nothing_but_a_wire_error(sent: Any, data: st.DataObject) -> None:
    """A byte turned over, a tail cut off, a byte more."""
    family, payload = family_of(sent), bytearray(sent.pack())
    position = data.draw(st.integers(0, len(payload) - 1))
    assert read(family, bytes(payload[:position])) is None
    assert read(family, bytes(payload) + b"\0") is None
    payload[position] = data.draw(st.integers(0, 255))
    read(family, bytes(payload))


@given(any_record, st.data())
def test_a_field_that_is_something_else_is_refused_or_packs_the_same(sent: Any, data: st.DataObject) -> None:
    """What gets through packs to what came, so nothing was taken for something else."""
    family, plain = family_of(sent), sent.pack()
    start = 0 if family is Envelope else 1
    values = msgpack.unpackb(plain[start:], strict_map_key=False, use_list=False)
    position = data.draw(st.integers(0, len(values) - 1))
    changed = [*values[:position], data.draw(junk), *values[position + 1 :]]
    received = read(family, plain[:start] + msgpack.packb(changed))
    assert received is None or family.unpack(received.pack()) == received


@pytest.mark.parametrize("family", FAMILIES)
@given(value=junk)
def test_well_formed_strangers_raise_nothing_but_a_wire_error(family: type[Any], value: Any) -> None:
    """Valid msgpack of any shape."""
    read(family, payload_of(family, value))


@pytest.mark.parametrize("family", FAMILIES)
@given(payload=st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_a_wire_error(family: type[Any], payload: bytes) -> None:
    """Any client of Redis can write this."""
    read(family, payload)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_missing_field_is_refused_and_so_is_one_more(kind: type[Any], data: st.DataObject) -> None:
    """Defaults are for those who send."""
    sent = data.draw(records(kind))
    start = 0 if family_of(sent) is Envelope else 1
    values = msgpack.unpackb(sent.pack()[start:], strict_map_key=False, use_list=False)
    for wrong in (values[:-1], (*values, 0)):
        assert read(family_of(sent), sent.pack()[:start] + msgpack.packb(wrong)) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([1, 1], "Probe: Expected `array` of at least length 3, got 2"),
        ([1, 1, 2, 3], "Probe: Expected `array` of at most length 2, got 3"),
        ([1, True, 1], "Probe.epoch: Expected `int`, got `bool`"),
        ([1, 1.0, 1], "Probe.epoch: Expected `int`, got `float`"),
        ([1, 1, -1], "Probe.sequence: Expected `int` >= 0"),
        ([1, 2**63, 1], "Probe.epoch: Expected `int` <= 9223372036854775807"),
        ([1, "secret", 1], "Probe.epoch: Expected `int`, got `str`"),
        ([0, 1, 1, [[b"", {}, 1]]], "Patches.patches: Expected `object`, got `int`"),
        ([0, 1, 1, [["", {}, {}]]], "Patches.patches: Expected `bytes`, got `str`"),
        ([0, 1, 1, [[b"", {"secret": "b"}, {}]]], "Patches.patches: Expected `bytes`, got `str`"),
        ([0, 1, 1, [b""]], "Patches.patches: Expected `array`, got `bytes`"),
        ([5, "key", "e", "c", 1, 2, [7], "", 0, ""], "FromClient: a value that it cannot have"),
        ([5, "key", "e", "c", 1, 2, [], "", 0], "FromClient: fewer fields than it has"),
        (
            [13, "asker", 1, ["secret", "ab", "/app", None]],
            "CommandRequest.command: a value that it cannot have",
        ),
        ([14, 1, ["secret", "text"]], "CommandReply.outcome: Expected `int`, got `str`"),
        ([True, 1, 1], "of no known kind"),
        (["secret", 1, 1], "of no known kind"),
        ([99, 1], "of no known kind"),
        ([], "of no known kind"),
        ({}, "of no known kind"),
        (1, "of no known kind"),
    ],
)
def test_errors_name_the_message_and_its_field_and_quote_nothing(wrong: Any, said: str) -> None:
    """Nothing is converted: True is no number, a number is no text."""
    with pytest.raises(WireError) as refused:
        Envelope.unpack(msgpack.packb(wrong))
    assert str(refused.value) == said


def test_nesting_is_refused() -> None:
    """Deeper than the decoder's stack."""
    with pytest.raises(WireError):
        Envelope.unpack(b"\x91" * 100_000 + b"\xc0")
    with pytest.raises(WireError):
        Envelope.unpack(b"\x97\x05\xa0\xa0\xa0\x01\x02" + b"\x91" * 100_000)


@pytest.mark.parametrize("head", [b"", b"\x94\x00\x01\x01", b"\x94\x00\x01\x01\x91", b"\x9a\x05\xa0\xa0\xa0\x01\x02"])
def test_announced_sizes_are_not_believed(head: bytes) -> None:
    """Four gigabytes in six bytes, as the message or in a field of it."""
    for announced in (b"\xdd\xff\xff\xff\xff\x01", b"\xc6\xff\xff\xff\xff\x01", b"\xdf\xff\xff\xff\xff\x01"):
        with pytest.raises(WireError):
            Envelope.unpack(head + announced)


def test_what_utf8_does_not_have_is_replaced() -> None:
    """Wherever it is; what could not be packed would be lost whole."""
    row = SessionRow("caf\udce9", "/\ud800", 1, 2, 3, 4.0)
    assert msgpack.unpackb(row.pack()) == ["caf?", "/?", 1, 2, 3, 4.0]
