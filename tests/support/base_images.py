"""The images that `deploy/Dockerfile` and `docker-compose.yml` begin with, made of Debian's packages.

Where no registry can be asked, an engine has no image to begin with. A minimal Debian 13 is put together by mmdebstrap,
which does what debootstrap does in half the time, and `tests/containers/bases.Dockerfile` makes the rest of it, under
the very names that our files use. An image that is there already is left alone, whether it was pulled or made here.
The way out of a container is the host's: its mirror of Debian, its certificates, its settings of pip.

    python tests/support/base_images.py
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.compose import services
from support.dockerfile import stages
from support.engine import PREFIX, docker, why_no_engine
from support.patience import seconds

__all__ = ["BUILD_SECONDS", "compose_plugin", "image_lock", "prepare", "why_no_images"]

DEBIAN = f"{PREFIX}/debian:trixie"
COMPOSE_IMAGE = f"{PREFIX}/compose:trixie"
RECIPES = Path(__file__).parents[1] / "containers" / "bases.Dockerfile"
DEBIAN_SECONDS = 900
"""Of packages that are downloaded and unpacked: half a minute where nothing else runs."""
BUILD_SECONDS = 900
ATTEMPTS = 3
"""A mirror may drop a connection; what was built before that is not built again."""


def tags() -> dict[str, str]:
    """The tag of each stand-in, by its stage in the recipes."""
    found = {name: str(service.said["image"]) for name, service in services().items()}
    named = {name: found[name] for name in ("redis", "nginx", "prometheus")}
    version = re.search(r"PYTHON_VERSION=(\S+)", (RECIPES.parents[2] / "deploy" / "Dockerfile").read_text())
    assert version is not None
    return {"python": stages()[-1].base.replace("${PYTHON_VERSION}", version[1]), **named, "compose": COMPOSE_IMAGE}


def is_there(tag: str) -> bool:
    """Whether the engine has an image."""
    return docker("image", "inspect", tag, check=False).returncode == 0


@contextlib.contextmanager
def image_lock() -> Iterator[None]:
    """One process of this machine at a time makes images: the others find them in the engine."""
    with (Path(tempfile.gettempdir()) / f"{PREFIX}-images.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def why_no_images() -> str:
    """Why there can be no image to begin with, or an empty string. What is missing is made only by `prepare`."""
    if reason := why_no_engine():
        return reason
    if all(map(is_there, tags().values())) or is_there(DEBIAN):
        return ""
    if shutil.which("mmdebstrap") is None:
        return "the Docker engine has no base images, and mmdebstrap, which would make them, is not installed"
    return _why_unreachable(f"{mirror()}/dists/trixie/InRelease")


def _why_unreachable(url: str) -> str:
    problem: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(url, timeout=seconds(20)):
                return ""
        except OSError as refused:
            problem = refused
    return f"the Docker engine has no base images, and Debian's packages cannot be reached: {problem}"


def prepare() -> None:
    """See to it that every base image is in the engine."""
    with image_lock():
        missing = {stage: tag for stage, tag in tags().items() if not is_there(tag)}
        if missing and not is_there(DEBIAN):
            _import_debian()
        for stage, tag in missing.items():
            build("--file", str(RECIPES), "--target", stage, "--tag", tag, str(RECIPES.parent))


def build(*words: str, nominal: float = BUILD_SECONDS) -> None:
    """`docker build` with the older of its builders, which needs no plugin and reaches what the host reaches."""
    for left in reversed(range(ATTEMPTS)):
        command = ["build", "--network", "host", *words]
        done = docker(*command, nominal=nominal, env={"DOCKER_BUILDKIT": "0"}, check=left == 0)
        if done.returncode == 0:
            return


def compose_plugin(folder: Path) -> None:
    """Put compose's plugin into a folder that is to be DOCKER_CONFIG."""
    plugins = folder / "cli-plugins"
    plugins.mkdir(parents=True)
    name = f"{PREFIX}-plugin-{folder.name}"
    try:
        docker("create", "--name", name, COMPOSE_IMAGE, "true")
        docker("cp", f"{name}:/unpacked/usr/libexec/docker/cli-plugins/docker-compose", str(plugins))
    finally:
        docker("rm", "--force", name, check=False)


def mirror() -> str:
    """Where this machine gets Debian's packages from."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return next((site for site in listed if site.endswith("/debian")), "http://deb.debian.org/debian")


def _import_debian() -> None:
    with tempfile.TemporaryDirectory(prefix="debian-") as folder:
        archive, settings = Path(folder) / "root.tar", Path(folder) / "pip.conf"
        settings.write_text(_pip_settings())
        command = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
        command += [f"--aptopt={line}" for line in (*_apt_settings(), 'Acquire::Languages "none"')]
        command += [f"--aptopt={line}" for line in ('APT::Install-Recommends "false"', 'Acquire::Retries "5"')]
        command += ["--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*"]
        command += [f"--customize-hook=upload {settings} /etc/pip.conf"]
        command += [f"--customize-hook=upload {_certificates()} /etc/ssl/certs/ca-certificates.crt"]
        command += ["trixie", str(archive), f"deb {mirror()} trixie main"]
        for left in reversed(range(ATTEMPTS)):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(DEBIAN_SECONDS), check=False)
            if done.returncode == 0:
                break
            assert left, done.stderr
        docker("import", "--change", "ENV DEBIAN_FRONTEND=noninteractive", str(archive), DEBIAN)


def _certificates() -> str:
    """The authorities that this machine trusts: a proxy's own is among them where there is such a proxy."""
    return ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"


def _apt_settings() -> list[str]:
    """How apt reaches the mirror from here."""
    command = ["apt-config", "dump", "Acquire"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    wanted = re.compile(r'Acquire::(Check-Valid-Until|Check-Date|https?::Proxy) "[^"]+"')
    return [line.rstrip(";") for line in listed if wanted.match(line)]


def _pip_settings() -> str:
    """How pip reaches an index from here."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    wanted = r"(?m)^[\w:]+\.(index-url|extra-index-url|trusted-host|proxy|default-timeout)='(.*)'$"
    lines = [f"{name} = {value}" for name, value in re.findall(wanted, listed)]
    return "\n".join(["[global]", "cert = /etc/ssl/certs/ca-certificates.crt", *lines, ""])


if __name__ == "__main__":
    if why := why_no_images():
        sys.exit(why)
    prepare()
    print("\n".join(tags().values()))
