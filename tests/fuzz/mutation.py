"""Mutations of bytes: small damage to valid messages, which reaches deeper into a parser than noise does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

__all__ = ["Mutator"]

MAX_STEPS = 6
"""Mutations of one input; more of them leave nothing that a parser would believe."""

MAX_SIZE = 4096
"""Bytes; what grows beyond is cut."""

INTERESTING = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\r\n", b"\n", b"\r", b" ", b"\t", b"0", b"-1", b"9" * 20, b"1e999"]
INTERESTING += [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b";", b"=", b"%", b"%00", b"\xed\xa0\x80", b"\xc3\xbc"]
"""What parsers of text and numbers trip over."""


class Mutator:
    """Draws inputs from valid ones.

    Args:
        seeds: valid inputs.
        words: what means something to the parser, put in where chance will have it.
        random: decides everything, so that a seed replays a run.
    """

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes], random: random.Random) -> None:
        self._seeds = seeds
        self._words = [*words, *INTERESTING]
        self._random = random
        self._steps: list[Callable[[bytearray], None]] = [
            self._flip, self._replace, self._insert_word, self._insert_word, self._delete, self._repeat, self._splice,
            self._swap,
        ]  # fmt: skip

    def draw(self) -> bytes:
        """One input: a seed, mostly with some damage."""
        drawn = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.randint(0, MAX_STEPS)):
            self._random.choice(self._steps)(drawn)
        return bytes(drawn[:MAX_SIZE])

    def _place(self, drawn: bytearray) -> int:
        return self._random.randint(0, len(drawn))

    def _piece(self, drawn: bytearray) -> tuple[int, int]:
        start = self._place(drawn)
        return start, min(len(drawn), start + self._random.choice((1, 1, 2, 4, 8, 64)))

    def _flip(self, drawn: bytearray) -> None:
        if drawn:
            drawn[self._random.randrange(len(drawn))] ^= 1 << self._random.randrange(8)

    def _replace(self, drawn: bytearray) -> None:
        if drawn:
            drawn[self._random.randrange(len(drawn))] = self._random.randrange(256)

    def _insert_word(self, drawn: bytearray) -> None:
        place = self._place(drawn)
        drawn[place:place] = self._random.choice(self._words)

    def _delete(self, drawn: bytearray) -> None:
        start, end = self._piece(drawn)
        del drawn[start:end]

    def _repeat(self, drawn: bytearray) -> None:
        start, end = self._piece(drawn)
        place = self._place(drawn)
        drawn[place:place] = drawn[start:end] * self._random.choice((1, 1, 2, 16))

    def _splice(self, drawn: bytearray) -> None:
        """The rest of another seed."""
        other = self._random.choice(self._seeds)
        drawn[self._place(drawn) :] = other[self._random.randint(0, len(other)) :]

    def _swap(self, drawn: bytearray) -> None:
        start, end = self._piece(drawn)
        piece = drawn[start:end]
        del drawn[start:end]
        place = self._place(drawn)
        drawn[place:place] = piece
