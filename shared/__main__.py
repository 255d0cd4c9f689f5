"""`python -m aperture` is the command `aperture`, for a shell that has the interpreter on its path and nothing else."""

from __future__ import annotations

import sys

from aperture.gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
