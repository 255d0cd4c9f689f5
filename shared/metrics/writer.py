"""Writes a process's numbers into the node's directory: the supervisor's at each change, the others' once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from aperture.metrics.storage import ProcessFiles
from aperture.metrics.tallies import Reading

__all__ = ["MetricsWriter"]

log = logging.getLogger(__name__)

WRITE_INTERVAL = 1.0
"""Seconds; what is lost of the counts of a process that is killed."""


class MetricsWriter:
    """The files of one process. What cannot be written costs a line in the log, and is tried again.

    Args:
        path: of the node's directory; None where no other process reads: then nothing is written.
        process: its name there.
        read: all of its numbers.
        of_node: whether the process is a child of the supervisor, which removes the directory.
    """

    def __init__(
        self, path: Path | str | None, process: str, read: Callable[[], Iterable[Reading]], *, of_node: bool = True
    ) -> None:
        self._path = path
        self._process = process
        self._read = read
        self._of_node = of_node
        self._files: ProcessFiles | None = None
        self._timer: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        """Write now, and once a second on the running loop."""
        self.write()
        if self._path is not None:
            self._timer = asyncio.ensure_future(self._write_again())

    def write(self) -> None:
        """Write the numbers as they are now. Blocks for a few small files."""
        if self._path is None:
            return
        try:
            if self._files is None:
                self._files = ProcessFiles(self._path, self._process, of_node=self._of_node)
            self._files.write(self._read())
        except OSError as problem:
            if not self._failing:
                log.warning("the %s's metrics cannot be written: %s", self._process, problem)
            self._failing = True
        else:
            self._failing = False

    def stop(self) -> None:
        """Write the last numbers, and nothing from then on. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._files is not None:
            self.write()
            self._files.close()
        self._path = self._files = None

    async def _write_again(self) -> None:
        while True:
            await asyncio.sleep(WRITE_INTERVAL)
            self.write()
