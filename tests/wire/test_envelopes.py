"""Envelopes: what goes in comes out, and what a stranger sends goes nowhere."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture.wire import envelopes as envelope
from aperture.wire.envelopes import Envelope, Hostile, Patches, Probe, Relayed, SessionEnded

TYPES = [kind for kind in vars(envelope).values() if isinstance(kind, type) and issubclass(kind, Envelope)]
KINDS = [kind for kind in TYPES if kind is not Envelope]

numbers = st.integers(0, envelope.MAX_NUMBER - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
relayed = st.builds(
    Relayed, st.binary(), st.dictionaries(texts, st.binary(), max_size=3), st.dictionaries(texts, numbers, max_size=3)
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "int": numbers,
    "str": texts,
    "bytes": st.binary(),
    "bool": st.booleans(),
    "tuple[Relayed, ...]": st.lists(relayed, max_size=4).map(tuple),
    "tuple[bytes | str, ...]": st.lists(st.binary() | texts, max_size=4).map(tuple),
    "dict[str, str]": st.dictionaries(texts, texts, max_size=4),
}


def envelopes(kind: type[Envelope]) -> st.SearchStrategy[Envelope]:
    return st.builds(kind, **{field.name: FIELDS[str(field.type)] for field in dataclasses.fields(kind)})


any_envelope = st.sampled_from(KINDS).flatmap(envelopes)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | texts
junk: st.SearchStrategy[Any] = st.deferred(
    lambda: scalars | st.lists(junk, max_size=3) | st.dictionaries(texts, junk, max_size=3)
)


def read(payload: bytes) -> Envelope | None:
    """The envelope, or None; what is raised beside ValueError fails the test."""
    try:
        return Envelope.unpack(payload)
    except ValueError:
        return None


def test_a_reason_may_quote_what_utf8_does_not_have() -> None:
    """It is for people; what could not be packed would cost the session's viewers their close code."""
    assert Envelope.unpack(SessionEnded(1, 1011, "no caf\udce9").pack()) == SessionEnded(1, 1011, "no caf?")


@given(any_envelope)
def test_what_was_packed_is_unpacked(sent: Envelope) -> None:
    """Every field of every kind, with its exact type."""
    received = Envelope.unpack(sent.pack())
    assert received == sent
    assert type(received) is type(sent)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_a_value_error(payload: bytes) -> None:
    """Whoever can write to Redis can write this."""
    read(payload)


@given(junk)
def test_well_formed_strangers_raise_nothing_but_a_value_error(value: Any) -> None:
    """Valid msgpack of any shape."""
    read(msgpack.packb(value))


@given(st.integers(-1, 12), st.lists(junk, max_size=8))
def test_only_well_typed_fields_become_an_envelope(code: int, values: list[Any]) -> None:
    """What gets through packs to the same bytes again, so nothing was taken for something else."""
    payload = msgpack.packb([code, *values])
    received = read(payload)
    assert received is None or received.pack() == payload


@given(any_envelope, st.data())
def test_damage_raises_nothing_but_a_value_error(sent: Envelope, data: st.DataObject) -> None:
    """A byte turned over, a tail cut off."""
    payload = bytearray(sent.pack())
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] = data.draw(st.integers(0, 255))
    read(bytes(payload))
    read(bytes(payload[:position]))


@pytest.mark.parametrize(
    "wrong",
    [
        [1, 1],
        [1, 1, 2, 3],
        [1, True, 1],
        [1, 1.0, 1],
        [1, -1, 1],
        [1, 2**63, 1],
        [1, "1", 1],
        [True, 1, 1],
        ["1", 1, 1],
        [99, 1],
        [0, 1, 1, [[b"", {}, 1]]],
        [0, 1, 1, [["", {}]]],
        [0, 1, 1, [[b"", {"a": "b"}]]],
        [0, 1, 1, [b""]],
        [2, 1, 1000, b"reason"],
        [],
        {},
        1,
    ],
)
def test_wrong_types_are_refused(wrong: Any) -> None:
    """True is no number, a number is no text, and nothing is converted."""
    with pytest.raises(ValueError):
        Envelope.unpack(msgpack.packb(wrong))


def test_nesting_is_refused() -> None:
    """Deeper than the decoder's stack."""
    with pytest.raises(ValueError):
        Envelope.unpack(b"\x91" * 100_000 + b"\xc0")


def test_announced_sizes_are_not_believed() -> None:
    """Four gigabytes in six bytes."""
    for payload in (b"\xdd\xff\xff\xff\xff\x01", b"\xc6\xff\xff\xff\xff\x01", b"\xdf\xff\xff\xff\xff\x01"):
        with pytest.raises(ValueError):
            Envelope.unpack(payload)


def test_a_huge_envelope_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding would take several times its size."""
    monkeypatch.setattr(envelope, "MAX_ENVELOPE", 10)
    with pytest.raises(ValueError, match="too large"):
        Envelope.unpack(SessionEnded(1, 1000, "a reason").pack())


def test_the_codes_on_the_wire_stay_what_they_are() -> None:
    """Two versions of this share a Redis during an upgrade; new kinds come at the end."""
    names = "Patches Probe SessionEnded Join Leave FromClient Render Reply Joined Rendered Refused"
    assert [kind.__name__ for kind in envelope._TYPES][:11] == names.split()
    assert set(envelope._TYPES) == set(KINDS)


def test_patches_know_their_last_number() -> None:
    """It is what the registry is told."""
    assert Patches(1, 5, (Relayed(b"a", {}, {}), Relayed(b"", {"c": b"b"}, {"c": 3}))).last == 6


def test_hostile_envelopes_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of them fills no log."""
    hostile = Hostile()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            hostile.count("inbox", ValueError("not msgpack"))
        hostile.count("patches", ValueError("too large"))
    assert hostile.counts == {"inbox": 3, "patches": 1}
    assert len(caplog.records) == 2


def test_a_probe_is_small() -> None:
    """It is sent on every channel every few seconds."""
    assert len(Probe(1_795_421_724_194, 10_000).pack()) < 20
