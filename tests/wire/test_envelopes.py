"""Envelopes: their bounds, their meaning, and the count of what is none."""

from __future__ import annotations

import logging

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import junk, texts

from aperture.errors import WireError
from aperture.wire import envelopes as envelope
from aperture.wire.envelopes import (
    Envelope,
    Hostile,
    Patches,
    Probe,
    Relayed,
    SessionEnded,
    pack_fragments,
    unpack_fragments,
)


def test_a_reason_may_quote_what_utf8_does_not_have() -> None:
    """It is for people; what could not be packed would cost the session's viewers their close code."""
    assert Envelope.unpack(SessionEnded(1, 1011, "no caf\udce9").pack()) == SessionEnded(1, 1011, "no caf?")


def test_a_huge_envelope_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding would take several times its size."""
    monkeypatch.setattr(envelope, "MAX_ENVELOPE", 10)
    with pytest.raises(ValueError, match="too large"):
        Envelope.unpack(SessionEnded(1, 1000, "a reason").pack())


def test_patches_know_their_last_number() -> None:
    """It is what the registry is given."""
    assert Patches(1, 5, (Relayed(b"a", {}, {}), Relayed(b"", {"c": b"b"}, {"c": 3}))).last == 6


@given(st.lists(st.binary() | texts, max_size=4).map(tuple))
def test_fragments_are_fetched_as_they_were(sent: tuple[bytes | str, ...]) -> None:
    """Those of a message that is too large to be published."""
    assert unpack_fragments(pack_fragments(sent)) == sent


@given(junk | st.binary())
def test_what_is_not_fragments_is_refused(value: object) -> None:
    """The worker that offers them is another one, and may be a stranger."""
    packed = value if isinstance(value, bytes) else msgpack.packb(value)
    try:
        fragments = unpack_fragments(packed)
    except WireError:
        return
    assert all(type(fragment) in (bytes, str) for fragment in fragments)


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
