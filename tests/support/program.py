"""An example program as a user starts it, for the time of a `with` block."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.patience import seconds

__all__ = ["running"]


@contextlib.contextmanager
def running(
    script: Path, *arguments: str, says: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a Python program, and wait until a line of its output matches `says`.

    What it writes afterwards is read, too: a full pipe would stop it.
    """
    command = [sys.executable, str(script), *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(env or {})
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    ) as process:
        heard: list[str] = []
        reader = threading.Thread(target=_listen, args=(process, says, heard, ready := threading.Event()))
        reader.start()
        try:
            if not ready.wait(seconds(30)) or process.poll() is not None:
                raise RuntimeError(f"{script.name} did not say {says!r}:\n{''.join(heard)}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(seconds(10))
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join()


def _listen(process: subprocess.Popen[str], says: str, heard: list[str], ready: threading.Event) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        heard.append(line)
        if re.search(says, line):
            ready.set()
    ready.set()  # or it has ended
