"""Debian's Prometheus, on a port of the test's own and with nothing that lasts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from support.fetch import fetch
from support.patience import seconds, wait_until
from support.redis import free_port

__all__ = ["CONFIGURATION", "Prometheus"]

CONFIGURATION = "/etc/prometheus/prometheus.yml"

ARGUMENTS = (f"--config.file={CONFIGURATION}", "--storage.tsdb.path=/prometheus")
"""Debian's own default is one storage for the machine: two tests would write into it, and read each other's series."""


class Prometheus:
    """A Prometheus for the time of a `with` block.

    Args:
        files: what it reads, by where it looks for it.
        arguments: of the command. A path in them is one in a folder of the test's.
    """

    def __init__(self, files: Mapping[str, str], arguments: Sequence[str] = ARGUMENTS) -> None:
        self._files = files
        self._arguments = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        program = shutil.which("prometheus")
        assert program is not None, "Debian's package prometheus is missing"
        arguments = [re.sub(r"=(/.*)", lambda match: f"={self._folder}{match[1]}", word) for word in self._arguments]
        for target, content in self._files.items():
            path = self._folder / target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        with (self._folder / "log").open("wb") as log:
            address = f"--web.listen-address={self.url.removeprefix('http://')}"
            self._process = subprocess.Popen([program, *arguments, address], stdout=log, stderr=log, cwd=self._folder)
        wait_until(self._ready, 30, "Prometheus does not become ready")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(seconds(10))
        shutil.rmtree(self._folder, ignore_errors=True)

    def rows(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series that a query gives now."""
        found = self._ask(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return [(row["metric"], float(row["value"][1])) for row in found]

    def query(self, expression: str) -> dict[str, float]:
        """The values of a query now, by the instance that they are of (empty if of none)."""
        return {labels.get("instance", ""): value for labels, value in self.rows(expression)}

    def targets(self) -> dict[str, str]:
        """The health of each target."""
        return {target["labels"]["instance"]: target["health"] for target in self._ask("targets")["activeTargets"]}

    def alerts(self) -> dict[tuple[str, str], str]:
        """The state of each alert that is not at rest, by its name and the instance that it is about."""
        labels = [(alert["labels"], alert["state"]) for alert in self._ask("alerts")["alerts"]]
        return {(named["alertname"], named.get("instance", "")): state for named, state in labels}

    def _ask(self, what: str) -> Any:
        answer = fetch(f"{self.url}/api/v1/{what}")
        assert answer.status == 200, answer.text
        return json.loads(answer.text)["data"]

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return fetch(f"{self.url}/-/ready").status == 200
        except OSError:
            return False
