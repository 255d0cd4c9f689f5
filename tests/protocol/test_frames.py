"""Frame runs: RFC 6455 framing, one copy, and the compressed form of RFC 7692."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import BINARY, TEXT, frames_of

from aperture.protocol.frames import MIN_DEFLATED, Buffer, FrameRun


def inflated(run: bytes) -> list[tuple[int, bytes]]:
    """The messages as a client reads them, with one window over all of them, as without `no_context_takeover`."""
    window = zlib.decompressobj(-15)
    messages = []
    for opcode, compressed, payload in frames_of(run):
        messages.append((opcode, window.decompress(payload + b"\0\0\xff\xff") if compressed else payload))
    return messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_lengths_take_the_shortest_of_the_three_forms(size: int) -> None:
    """Payloads around each border of the length field come out whole."""
    run = FrameRun.build([b"x" * size], [Buffer("b1", b"y" * size)])
    assert list(frames_of(run.plain)) == [
        (TEXT, False, b"x" * size),
        (TEXT, False, b'{"id":"b1"}'),
        (BINARY, False, b"y" * size),
    ]


def test_a_run_owns_its_bytes() -> None:
    """An array that changes after the run was built does not change the run."""
    array = bytearray(b"before")
    run = FrameRun.build([b"{}"], [Buffer("b1", memoryview(array))])
    array[:] = b"after!"
    assert run.plain.endswith(b"before")


def test_joined_runs_are_one_run_in_order() -> None:
    """Joining puts the messages one after another; a single run is not copied."""
    one, two = FrameRun.build([b"1"]), FrameRun.build([b"2"])
    assert FrameRun.join([one, two]).plain == one.plain + two.plain
    assert FrameRun.join([one]) is one
    assert FrameRun.join([]).plain == b""
    assert len(FrameRun.join([one, two])) == len(one) + len(two)


@given(
    st.lists(st.binary(max_size=600)),
    st.lists(st.binary(max_size=600)),
    st.integers(-1, 9),
    st.none() | st.integers(1, 9),
)
def test_a_client_inflates_what_was_deflated(
    texts: list[bytes], payloads: list[bytes], level: int, mem_level: int | None
) -> None:
    """The compressed run carries the same messages, for a client that keeps its window from message to message."""
    run = FrameRun.build(texts, [Buffer(f"b{place}", payload) for place, payload in enumerate(payloads)])
    plain = [(opcode, payload) for opcode, _, payload in frames_of(run.plain)]
    assert inflated(run.deflated(level, mem_level)) == plain


def test_tiny_fragments_stay_plain() -> None:
    """Below the threshold nothing is compressed, above it what shrinks is."""
    run = FrameRun.build([b"x" * (MIN_DEFLATED - 1), b"x" * MIN_DEFLATED])
    assert [compressed for _, compressed, _ in frames_of(run.deflated(6, None))] == [False, True]


def test_what_does_not_shrink_stays_plain() -> None:
    """Noise is sent as it is."""
    noise = random.Random(1).randbytes(1000)
    run = FrameRun.build([], [Buffer("b1", noise)])
    assert run.deflated(9, None) == run.plain


def test_every_message_is_compressed_by_itself() -> None:
    """A joined run deflates to the joined deflated runs, so a viewer may start anywhere."""
    one, two = FrameRun.build([b"a" * 500]), FrameRun.build([b"a" * 500])
    assert FrameRun.join([one, two]).deflated(6, None) == one.deflated(6, None) + two.deflated(6, None)


def test_compression_happens_once_per_pair_of_levels() -> None:
    """All viewers share the same compressed bytes."""
    run = FrameRun.build([b"a" * 500])
    assert run.deflated(6, None) is run.deflated(6, None)
    assert run.deflated(1, 1) is run.deflated(1, 1)
