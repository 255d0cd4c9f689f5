"""`aperture doctor` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

from support.patience import seconds

__all__ = ["examine"]


def examine(url: str, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Run the command; its exit code, and the findings by check."""
    command = [sys.executable, "-m", "aperture", "doctor", "--json", "--patience", "0", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(60), check=False)
    assert not done.stderr, done.stderr
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {finding["check"]: finding for finding in findings}
