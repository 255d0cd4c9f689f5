"""The container without an engine: the wheel, the entry point and the health check, as the Dockerfile has them.

`tests/containers/` has the image built and run where there is one. What its last stage says is done here: the wheel of
the files that the Dockerfile copies is installed apart from this tree, and the entry point starts it with the image's
variables, from `/`.
Namespaces of Linux stand for the rest: a root file system that is read-only, a user without any privilege, process 1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.dockerfile import ROOT, programs, stages
from support.fetch import fetch
from support.patience import seconds, wait_until
from support.redis import free_port

BUILD_SECONDS = 120
_READ_ONLY = """
set -eu
scratch=$1 user=$2
shift 2
mount --bind "$scratch" "$scratch"
while read -r _ _ _ _ where flags _; do
    case $where in "$scratch" | /proc* | /dev | /sys*) continue ;; esac
    # A file system of another container may go away meanwhile: what is no mount any more cannot be written to.
    mount -o "remount,bind,ro,${flags#rw}" "$where" || ! mountpoint -q "$where"
done < /proc/self/mountinfo
exec unshare --user --map-user="$user" --map-group="$user" -- "$@"
"""

PROCESS_ONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--")


def read_only(scratch: Path) -> tuple[str, ...]:
    """What to put before a command to have it run as the image's user, able to write to one folder only."""
    user = stages()[-1].one("USER").partition(":")[0]
    own = ("unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", _READ_ONLY, "sh")
    return (*own, str(scratch), user)


def works(*command: str) -> bool:
    """Whether this system lets us do that; containers often may make no namespaces."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Image:
    """Where the parts of the image are on this machine."""

    site: Path
    entrypoint: list[str]
    probe: list[str]
    scratch: Path
    """The one folder that its user can write to."""

    def environment(self, **said: str) -> dict[str, str]:
        """The image's variables, with the paths and ports of this machine."""
        answer = stages()[-1].environment()
        programs = f"{self.site / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
        here = {"PATH": programs, "PYTHONPATH": str(self.site), "HOME": str(self.scratch), "TMPDIR": str(self.scratch)}
        return answer | here | {"APPS_FOLDER": str(self.site / "apps")} | said


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The wheel, built from what the Dockerfile copies and installed in a folder of its own."""
    *_, build, final = stages()
    top = Path(tempfile.mkdtemp(prefix="image-"))
    top.chmod(0o755)
    site, scratch, context = top / "site", top / "scratch", top / "context"
    for sources, _ in build.copies():
        for source in sources:
            _copy(ROOT / source, context / source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(top / "wheels"), str(context))
    shutil.rmtree(context)
    wheels = ["--find-links", str(top / "wheels"), "--target", str(site)]
    _pip("install", "--no-deps", "--no-index", *wheels, "bokeh-aperture")
    _copy(ROOT / "examples" / "apps", site / "apps")
    installed = {}
    (site / "bin").mkdir(exist_ok=True)
    for name, source in programs().items():
        installed[name] = site / "bin" / name
        shutil.copy(ROOT / source, installed[name])
        installed[name].chmod(0o755)
    scratch.mkdir()

    def command(instruction: str) -> list[str]:
        program, *words = final.command(instruction)
        return [str(installed[program]), *words]

    yield Image(site, command("ENTRYPOINT"), command("HEALTHCHECK"), scratch)
    shutil.rmtree(top)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy(source, target)


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        timeout=seconds(BUILD_SECONDS),
        check=False,
    )
    assert done.returncode == 0, done.stderr


class Container:
    """What `docker run` of the image would start, for the time of a `with` block."""

    def __init__(self, image: Image, *options: str, before: tuple[str, ...] = ()) -> None:
        self.image = image
        self.port, self.admin = free_port(), free_port()
        self.environment = image.environment(APERTURE_PORT=str(self.port), APERTURE_ADMIN_PORT=str(self.admin))
        self.log = image.scratch / "log"
        self._command = [*before, *image.entrypoint, *options]
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Container:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(seconds(10))

    def wait_until(self, condition: Callable[[], object], why: str) -> None:
        """Wait, and fail at once when the container has ended."""

        def looked() -> bool:
            assert self.process.poll() is None, f"it has ended: {self.log.read_text()}"
            return bool(condition())

        try:
            wait_until(looked, 60, why)
        except TimeoutError as problem:
            raise TimeoutError(f"{problem}: {self.log.read_text()}") from None

    def probe(self, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """The image's health check, or the same of another path."""
        command = self.image.probe if path is None else [*self.image.probe[:1], path]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds(10), cwd="/", check=False
        )

    def wait_ready(self) -> None:
        self.wait_until(lambda: self.probe("/readyz").returncode == 0, "it does not become ready")


def test_the_installed_wheel_is_what_runs(image: Image) -> None:
    """Not the tree that the tests run in."""
    answer = subprocess.run(
        [sys.executable, "-c", "import aperture.gateway.cli; print(aperture.gateway.cli.__file__)"],
        env=image.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(answer.stdout.strip()).is_relative_to(image.site)


def test_it_serves_the_folder_of_apps_and_ends_in_good_order(image: Image) -> None:
    """Pages of every app; the entry point has become the supervisor, which gets the signal and leaves with 0."""
    with Container(image) as container:
        container.wait_ready()
        command = Path(f"/proc/{container.process.pid}/cmdline").read_bytes().split(b"\0")
        assert b"serve" in command
        assert not any(word.endswith(b"aperture-container") for word in command)
        for app in ("sliders", "dashboard", "weather"):
            assert fetch(f"http://127.0.0.1:{container.port}/{app}").status == 200
        assert container.probe().returncode == 0
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(seconds(20)) == 0
        gone = container.probe()
        assert gone.returncode == 1
        assert f"no answer at port {container.admin}" in gone.stderr


def test_it_needs_no_root_and_writes_to_one_folder_only(image: Image) -> None:
    """A read-only root file system does, with workers, a Redis of its own, and sessions that are kept."""
    isolated = read_only(image.scratch)
    if not works(*isolated, "test", "-w", str(image.scratch)):
        pytest.skip("this system does not allow a read-only view of the file system")
    for folder in ("/", "/tmp", str(image.site)):
        assert not works(*isolated, "test", "-w", folder), f"{folder} can be written to"
    with Container(image, "--num-procs", "2", "--durability", "async", before=isolated) as container:
        container.wait_ready()
        assert fetch(f"http://127.0.0.1:{container.port}/sliders").status == 200
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(seconds(20)) == 0, container.log.read_text()


def test_the_probe_says_what_is_wrong(image: Image) -> None:
    """Redis is down: alive, and not ready, with the reason in the health check's output."""
    options = ["--redis-url", f"redis://127.0.0.1:{free_port()}/0", "--redis-start", "wait"]
    with Container(image, *options) as container:
        container.wait_until(lambda: container.probe("/livez").returncode == 0, "it does not come alive")
        answer = container.probe("/readyz")
        assert answer.returncode == 1
        assert answer.stderr.startswith("503: not ready")


@pytest.mark.parametrize("when", ["while it loads", "when it serves"])
def test_process_one_heeds_sigterm(image: Image, when: str) -> None:
    """The kernel drops what process 1 does not handle; a container that is stopped must not wait to be killed."""
    if not works(*PROCESS_ONE, "true"):
        pytest.skip("this system does not allow a namespace of processes")
    with Container(image, before=PROCESS_ONE) as container:
        first = Path(f"/proc/{container.process.pid}/task/{container.process.pid}/children")
        container.wait_until(lambda: b"serve" in command_of(first), "it did not start")
        one = int(first.read_text())
        if when == "when it serves":
            container.wait_ready()
        else:
            container.wait_until(lambda: catches_sigterm(one), "it never catches SIGTERM")
        os.kill(one, signal.SIGTERM)
        assert container.process.wait(seconds(20)) == 0, container.log.read_text()
    supervised = "stopping" in container.log.read_text()
    assert supervised == (when == "when it serves"), "it waited with the signal until it had loaded everything"


def command_of(children: Path) -> bytes:
    """The command line of the only child, or nothing."""
    pid = children.read_text().strip()
    return Path(f"/proc/{pid}/cmdline").read_bytes() if pid else b""


def catches_sigterm(pid: int) -> bool:
    """Whether a process has a handler, as the kernel sees it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
