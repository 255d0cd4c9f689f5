"""A strict reader of server frames, written from RFC 6455."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["BINARY", "TEXT", "fragments_of", "frames_of"]

TEXT, BINARY = 1, 2


def frames_of(run: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """Opcode, RSV1 and payload of each frame, read as RFC 6455 section 5.2 has it."""
    while run:
        first, second = run[0], run[1]
        assert first & 0x80, "every frame is final"
        assert not second & 0x80, "a server masks nothing"
        extra = {126: 2, 127: 8}.get(second & 0x7F, 0)
        size = int.from_bytes(run[2 : 2 + extra], "big") if extra else second & 0x7F
        assert extra == (0 if size < 126 else 2 if size < 1 << 16 else 8), "the shortest length form"
        end = 2 + extra + size
        assert len(run) >= end, "no frame is cut short"
        yield first & 0x0F, bool(first & 0x40), run[2 + extra : end]
        run = run[end:]


def fragments_of(run: bytes) -> list[str | bytes]:
    """The websocket messages in a run that is not compressed."""
    return [payload.decode() if opcode == TEXT else payload for opcode, _, payload in frames_of(run)]
