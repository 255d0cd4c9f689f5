"""Interpreters for the rows of the matrix: those of this machine; for others a Debian that has them, in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["HOME", "ROOT", "Interpreter", "interpreter"]

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build" / "matrix"

DEBIANS: Mapping[str, str] = {"python3.13": "trixie", "python3.14": "sid"}
"""The release of Debian that has it. None that still gets packages has 3.12."""

PACKAGES = (
    "apache2-bin", "ca-certificates", "caddy", "gcc", "git", "haproxy", "iproute2", "libc6-dev", "make", "nginx-light",
    "openssl", "procps", "prometheus", "redis-server", "valkey-server",
)  # fmt: skip
"""What the tests of processes start, but for Chromium, and what wheels are built with where PyPI has none."""

_ENTER = """
set -e
debian=$1 root=$2; shift 2
mount --make-rprivate /
for name in proc sys dev; do mount --rbind "/$name" "$debian/$name"; done
mkdir -p "$debian$root"
mount --bind "$root" "$debian$root"
# Where packages are had from is this machine's affair.
for name in resolv.conf hosts ssl/certs/ca-certificates.crt; do cp "/etc/$name" "$debian/etc/$name"; done
for folder in $PIP_FIND_LINKS; do
    if [ -d "$folder" ]; then mkdir -p "$debian$folder"; mount --bind "$folder" "$debian$folder"; fi
done
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export PATH HOME
exec chroot "$debian" sh -c 'cd "$0" && exec "$@"' "$root" "$@"
"""
"""In a mount namespace of its own, so that nothing stays mounted, however it ends."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python.

    Args:
        program: its path, or its name in that Debian.
        within: what a command begins with that is to run where the interpreter is.
    """

    program: str
    within: Sequence[str] = field(default=())

    def run(self, *command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command where the interpreter is, in the repository's folder. Options are those of `subprocess.run`."""
        words = [*self.within, *map(str, command)]
        return subprocess.run(words, cwd=ROOT, text=True, **options)  # type: ignore[call-overload, no-any-return]

    @property
    def version(self) -> str:
        """As 3.13.0."""
        said = self.run(
            self.program, "-c", "import platform; print(platform.python_version())", check=True, capture_output=True
        )
        return said.stdout.strip()


def interpreter(name: str) -> Interpreter:
    """The one that is here; else pyenv's; else, as root, that of a Debian that is put together for it.

    Args:
        name: a path, or a name such as `python3.13`.

    Raises:
        LookupError: it cannot be had.
        CalledProcessError: the Debian cannot be made.
    """
    for program in filter(None, (shutil.which(name), *_of_pyenv(name))):
        if subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
            return Interpreter(program)
    if name not in DEBIANS or os.geteuid() != 0:
        raise LookupError(f"no {name} here, and none that root could make of Debian's packages")
    debian = HOME / f"debian-{DEBIANS[name]}"
    if not (debian / "usr" / "bin" / name).exists():
        _make(debian, name)
    return Interpreter(name, ("unshare", "--mount", "sh", "-c", _ENTER, "enter", str(debian), str(ROOT)))


def _of_pyenv(name: str) -> list[str]:
    """Its programs are on PATH as well, and refuse to run where another version is chosen."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [str(found) for found in sorted(home.glob(f"versions/*/bin/{name}"))]


def _make(debian: Path, name: str) -> None:
    shutil.rmtree(debian, ignore_errors=True)
    debian.parent.mkdir(parents=True, exist_ok=True)
    include = ",".join((name, f"{name}-venv", f"{name}-dev", *PACKAGES))
    # A mirror may lag behind the date until which its list of packages counts as new.
    late = '--aptopt=Acquire::Check-Valid-Until "false"'
    command = ["mmdebstrap", "--variant=apt", late, f"--include={include}", DEBIANS[name], str(debian)]
    subprocess.run([*command, "http://deb.debian.org/debian"], check=True)
