"""What a fuzzer runs against: a parser of ours beside one that is not, and valid inputs to start from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fuzz.corpus import kept
from fuzz.mutation import Mutator

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """One parser.

    Args:
        name: by which the command line calls it.
        seeds: valid inputs.
        check: raises whatever it likes if this input is a fault: an exception that is not of the parser's contract, or
            a difference from the peer that is not explained. Returns whether the input was accepted.
        words: what means something in such inputs.
    """

    name: str
    seeds: Sequence[bytes]
    check: Callable[[bytes], bool]
    words: Sequence[bytes] = ()

    def inputs(self, seed: int, count: int) -> Iterator[bytes]:
        """As many inputs, the same for the same seed. One in four begins with the corpus, of which little is valid."""
        found = kept(self.name)
        repeated = 1 + 3 * len(found) // len(self.seeds)
        mutator = Mutator([*self.seeds] * repeated + found, self.words, random.Random(f"{self.name} {seed}"))
        return (mutator.draw() for _ in range(count))
