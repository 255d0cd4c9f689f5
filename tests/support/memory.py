"""What the processes of a node have taken of memory."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["peak"]


def peak(pid: int) -> int:
    """The most resident memory that a process has had since it began, in bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
