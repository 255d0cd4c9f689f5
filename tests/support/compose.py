"""What `docker-compose.yml` says, with its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["COMPOSE", "NODES", "ROOT", "Service", "services", "variables"]

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
NODES = ("node-1", "node-2")
"""The containers of the service `node`, as compose names them, with as many as there are by default."""

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::(?P<sign>[-+])(?P<word>[^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Service:
    """One service."""

    name: str
    said: Mapping[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        said = self.said.get("environment", {})
        return {name: str(value) for name, value in said.items() if value is not None}

    def mounts(self) -> dict[str, Path]:
        """The files and folders of the repository that it sees, by where it sees them."""
        parts = [volume.split(":") for volume in self.said.get("volumes", ())]
        return {target: ROOT / source for source, target, *_ in parts if source.startswith((".", "/"))}

    def arguments(self, flag: str) -> list[str]:
        """The values of an option of its command."""
        words = self.said["command"]
        return [words[number + 1] for number, word in enumerate(words[:-1]) if word == flag]


def services(**environment: str) -> dict[str, Service]:
    """The services by name, as they are with these variables."""
    said = yaml.safe_load(COMPOSE.read_text())
    found = {name: Service(name, _filled_in(service, environment)) for name, service in said["services"].items()}
    for service in found.values():
        # A variable without a value has the one that compose has, and is not set if that has none.
        given = service.said.get("environment", {})
        given |= {name: environment.get(name) for name, value in given.items() if value is None}
    return found


def variables() -> set[str]:
    """The names of the variables that the file reads."""
    return {match["name"] for match in _VARIABLE.finditer(COMPOSE.read_text())}


def _filled_in(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled_in(item, environment) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _value(match, environment), value)
    return value


def _value(match: re.Match[str], environment: Mapping[str, str]) -> str:
    found, word = environment.get(match["name"], ""), match["word"] or ""
    if match["sign"] == "+":
        return word if found else ""
    return found or word
