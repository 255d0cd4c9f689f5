"""The process of the command `aperture`, and of `python -m aperture`, where the interpreter alone is on the path."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command. Ctrl-C while it is being imported ends the process as it does one that is not Python's."""
    asked = signal.getsignal(signal.SIGINT)
    if asked is signal.default_int_handler:  # a shell's `&` has SIGINT ignored: left so
        # The imports take seconds on a busy machine, and leave nothing to tidy up: a traceback would say nothing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from aperture.gateway.cli import main as run_command

    signal.signal(signal.SIGINT, asked)
    return run_command()


if __name__ == "__main__":
    sys.exit(main())
