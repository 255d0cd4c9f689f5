"""The programs on a page of the documentation: found in its text, and run as they stand there.

A page's program is a block marked as Python. It runs in a process of its own, with the ports that it names replaced by
free ones; whatever else it says is what its reader would type.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.patience import seconds
from support.redis import free_port

__all__ = ["Documented", "programs_in"]

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PORTS = ("5006", "8000")
"""That programs on pages serve at."""

_END_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Documented:
    """One program.

    Args:
        heading: the one above it.
        number: of the programs under this heading, from 0.
        source: its text.
    """

    heading: str
    number: int
    source: str

    @property
    def name(self) -> str:
        return f"{self.heading}-{self.number}".lower().replace(" ", "-")

    @contextmanager
    def running(self, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[RunningProgram]:
        """Run it; it is killed at the end if it still runs."""
        ports = {port: str(free_port()) for port in _PORTS}
        source = self.source
        for port, free in ports.items():
            source = source.replace(port, free)
        file = folder / "program.py"
        file.write_text(source, encoding="utf-8")
        output = folder / "output"
        with output.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, str(file)],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield RunningProgram(process, ports, output)
            finally:
                process.kill()
                process.wait(seconds(_END_SECONDS))


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """A program that runs, the ports that it has for those on the page, and what it writes."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, str]
    output: Path

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def url(self, path: str, port: str = "5006") -> str:
        """Where the program answers what the page says is at this port."""
        return f"http://localhost:{self.ports[port]}{path}"


def programs_in(page: Path) -> list[Documented]:
    """The Python programs of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found: list[Documented] = []
    for block in _BLOCK.finditer(text):
        headings = _HEADING.findall(_BLOCK.sub("", text[: block.start()]))
        heading = headings[-1] if headings else ""
        number = sum(program.heading == heading for program in found)
        found.append(Documented(heading, number, block.group(1)))
    return found
