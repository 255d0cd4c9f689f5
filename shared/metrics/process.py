"""What a process costs: memory, processor time, open files; and its pauses for garbage collection."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from aperture.metrics import families
from aperture.metrics.tallies import Distribution, Reading

__all__ = ["GcPauses", "OtherProcess", "build_info", "read_process"]

_PAGE = resource.getpagesize()

_began: dict[int, float] = {}
"""By process id, because a fork takes it along: when the process was first asked, which is as soon as it counts."""


def read_process(process: str) -> Iterator[Reading]:
    """This process's figures; without /proc (macOS) only its processor time.

    Args:
        process: its name among those of the node.
    """
    yield Reading(families.CPU, (process,), time.process_time())
    yield Reading(families.STARTED, (process,), _began.setdefault(os.getpid(), time.time()))
    yield from _proc_readings(process, "self")


class OtherProcess:
    """The figures of another process, which has no time to write its own. Nothing without /proc.

    Args:
        process: its name among those of the node.
        pid: of it.
    """

    def __init__(self, process: str, pid: int) -> None:
        self._process = process
        self._pid = str(pid)
        self._cpu_before = _cpu_seconds(self._pid) or 0.0  # its predecessor has counted those

    def read(self) -> Iterator[Reading]:
        """A `Source`."""
        cpu = _cpu_seconds(self._pid)
        if cpu is not None:
            yield Reading(families.CPU, (self._process,), max(0.0, cpu - self._cpu_before))
            yield from _proc_readings(self._process, self._pid)


class GcPauses:
    """Times Python's collections while it is started."""

    def __init__(self) -> None:
        self._pauses = Distribution(families.GC_PAUSE.buckets)
        self._since = 0.0

    def start(self) -> None:
        if self._note not in gc.callbacks:
            gc.callbacks.append(self._note)

    def stop(self) -> None:
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)

    def read(self) -> Iterator[Reading]:
        """A `Source`."""
        yield Reading(families.GC_PAUSE, (), self._pauses)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._since = time.perf_counter()
        elif self._since:
            self._pauses.observe(time.perf_counter() - self._since)
            self._since = 0.0


def build_info(bokeh: str) -> Iterator[Reading]:
    """The versions.

    Args:
        bokeh: its version; the gateway does not import it for that.
    """
    import platform

    from aperture.version import __version__

    yield Reading(families.BUILD_INFO, (__version__, bokeh, platform.python_version()), 1)


def _proc_readings(process: str, pid: str) -> Iterator[Reading]:
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, IndexError):
        return
    yield Reading(families.MEMORY, (process,), resident)
    yield Reading(families.OPEN_FDS, (process,), descriptors)


def _cpu_seconds(pid: str) -> float | None:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
