"""Runs fuzzers for as many inputs as one likes: `make fuzz FUZZ_ARGS="heads tokens --inputs 1000000 --seed 7"`.

Each ends at its first input that is a fault, and prints it in hex, with the seed that draws it again.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import math
import sys
import time
import traceback

from fuzz.target import Target
from fuzz.targets import TARGETS

MAX_SECONDS = 60
"""For one input, within a second; an input that takes longer hangs, and its stack is printed."""


def main() -> int:
    """The exit status: 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Feeds damaged inputs to what reads those of strangers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)}; by default all")
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same inputs for the same seed (default: %(default)s)")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    logging.disable(logging.CRITICAL)  # Bokeh logs each header that it cannot read
    chosen = [TARGETS[name] for name in arguments.targets or TARGETS]
    faulty = [target for target in chosen if not _holds(target, arguments.seed, arguments.inputs)]
    return int(bool(faulty))


def _holds(target: Target, seed: int, count: int) -> bool:
    accepted, start, watched = 0, time.monotonic(), -math.inf
    try:
        for number, drawn in enumerate(target.inputs(seed, count)):
            now = time.monotonic()
            if now > watched + 1:  # each time starts a thread, which takes longer than most inputs
                faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
                watched = now
            try:
                accepted += target.check(drawn)
            except Exception:
                print(f"{target.name}: input {number} of seed {seed} is a fault: {drawn.hex()}", file=sys.stderr)
                traceback.print_exc()
                return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.monotonic() - start
    print(
        f"{target.name}: {count:,} inputs of seed {seed}, {accepted:,} accepted, no fault, {seconds:,.0f} s", flush=True
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
