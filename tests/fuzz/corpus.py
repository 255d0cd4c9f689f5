"""Inputs that were found to take a new way through a parser, kept beside the valid ones that fuzzers start from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["add", "kept"]

FOLDER = Path(__file__).parent / "corpus"


def kept(target: str) -> list[bytes]:
    """What is kept for a target: one input a line, in hex."""
    file = FOLDER / f"{target}.txt"
    return [bytes.fromhex(line) for line in file.read_text().splitlines()] if file.exists() else []


def add(target: str, found: Iterable[bytes]) -> int:
    """Keep more; returns how many are kept then."""
    inputs = sorted({*kept(target), *found}, key=lambda drawn: (len(drawn), drawn))
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{target}.txt").write_text("".join(f"{drawn.hex()}\n" for drawn in inputs))
    return len(inputs)
