"""Fuzzing that is led by coverage, with Google's atheris: `make fuzz-atheris`, which installs it.

    python -m fuzz.by_coverage heads --inputs 100000

What takes a way through our code that no input before it has taken is kept in `tests/fuzz/corpus`, from which the other
fuzzers and the tests draw, too: small ones only, and the smallest first, as each makes every later run longer.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

MAX_KEPT_BYTES = 400
MOST_KEPT = 20
"""Of one run of one target."""


def main() -> int:
    """The exit status: 1 if there was a fault, which libFuzzer has printed."""
    parser = argparse.ArgumentParser(prog="fuzz.by_coverage", description="Fuzzes by coverage, with atheris.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="by default all")
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.within is not None:
        _fuzz(arguments.targets[0], arguments.within, arguments.inputs, arguments.seed)
    from fuzz.targets import TARGETS

    outcomes = [_holds(name, arguments.inputs, arguments.seed) for name in arguments.targets or TARGETS]
    return int(not all(outcomes))


def _holds(name: str, inputs: int, seed: int) -> bool:
    """In a process of its own: libFuzzer ends the one it runs in."""
    from fuzz import corpus
    from fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seeds = set(TARGETS[name].seeds)
        for number, drawn in enumerate(seeds):
            Path(folder, f"seed-{number}").write_bytes(drawn)
        options = ["--inputs", str(inputs), "--seed", str(seed), "--within", folder]
        done = subprocess.run([sys.executable, "-m", "fuzz.by_coverage", name, *options], check=False)
        found = {path.read_bytes() for path in Path(folder).iterdir() if not path.name.startswith("seed-")} - seeds
        small = sorted((drawn for drawn in found if len(drawn) <= MAX_KEPT_BYTES), key=len)[:MOST_KEPT]
        count = corpus.add(name, small) if done.returncode == 0 else 0
    print(f"{name}: {inputs:,} inputs, {len(found)} took new ways, {count} are kept", flush=True)
    return done.returncode == 0


def _fuzz(name: str, folder: Path, inputs: int, seed: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["aperture"]):
        from fuzz.targets import TARGETS
    logging.disable(logging.CRITICAL)
    target = TARGETS[name]

    def one(drawn: bytes) -> None:
        target.check(drawn)

    options = [f"-runs={inputs}", f"-seed={seed}", "-max_len=4096", "-timeout=60", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
