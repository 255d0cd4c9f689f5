"""The image with Aperture's extras: what `--build-arg EXTRAS` adds is locked, and does in it what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.base_images import build
from support.browser import BrowserTabs
from support.collector import Collector
from support.dockerfile import ROOT
from support.engine import PREFIX, Container, docker
from support.fetch import fetch
from support.node import APPS
from support.redis import free_port

EXTRAS = ("panel", "otel")
LARGEST = {"panel": 250, "otel": 30}
"""Megabytes that an extra may add; pandas and the scripts of Panel are most of the first."""


MODULE = {"panel": "panel", "otel": "opentelemetry"}


@pytest.fixture(scope="module", params=EXTRAS)
def extra(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def with_extra(clone: Path, image: str, extra: str) -> Iterator[str]:
    """The tag of an image with one of them."""
    tag = f"{PREFIX}/{extra}:local"
    dockerfile = str(clone / "deploy" / "Dockerfile")
    build("--file", dockerfile, "--build-arg", f"EXTRAS={extra}", "--tag", tag, str(clone))
    yield tag
    docker("image", "rm", "--force", tag, check=False)


def python(image: str, code: str) -> list[str]:
    """The words that a line of Python prints in an image."""
    return docker("run", "--rm", image, "python", "-c", code).stdout.split()


def installed(image: str) -> set[str]:
    """What is there beside pip and Aperture, as a lock would say it."""
    code = "import importlib.metadata as m; [print(d.name + '==' + d.version) for d in m.distributions()]"
    return {as_locked(word) for word in python(image, code) if not word.startswith(("pip==", "bokeh-aperture=="))}


def locked(name: str) -> set[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return {as_locked(line.partition(";")[0]) for line in lines if line and line[0] not in "#-"}


def as_locked(text: str) -> str:
    return text.lower().replace("_", "-")


def test_all_that_is_installed_is_locked(image: str, with_extra: str, extra: str) -> None:
    """What an extra needs is there in the version of its lock; nothing came that no lock names, or is the other's."""
    assert installed(image) == locked("runtime")
    assert installed(with_extra) == locked("runtime") | locked(extra)
    assert "No broken requirements" in docker("run", "--rm", with_extra, "/opt/aperture/bin/pip", "check").stdout
    asked = f"import importlib.util as u; print(*[name for name in {list(MODULE.values())} if u.find_spec(name)])"
    assert python(with_extra, asked) == [MODULE[extra]]


def test_an_extra_is_as_large_as_it_must_be(image: str, with_extra: str, extra: str) -> None:
    """`pytest -s` prints the figures; those in docs/deploying.md are from here."""
    sizes = docker("image", "inspect", "--format", "{{.Size}}", with_extra, image).stdout.split()
    added = (int(sizes[0]) - int(sizes[1])) / 1_000_000
    print(f"\n[{extra}] adds {added:.0f} MB to {int(sizes[1]) / 1_000_000:.0f} MB")
    assert added < LARGEST[extra]


def test_an_app_is_served_with_what_the_extra_is_for(
    with_extra: str, extra: str, clone: Path, tabs: BrowserTabs
) -> None:
    """An app of Panel's answers in Chromium, and a collector gets the spans of a page and of its session."""
    name = "paneling" if extra == "panel" else "talking"
    app = clone / (APPS / f"{name}.py").relative_to(ROOT)
    with Collector() as collector:
        given = {
            "APERTURE_PORT": str(free_port()),
            "APERTURE_ADMIN_PORT": str(free_port()),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url if extra == "otel" else "",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        # The collector is on this machine's own loopback.
        options = ["--network", "host", "--read-only", "--tmpfs", "/tmp", "--volume", f"{app}:/apps/{app.name}:ro"]
        options += [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
        with Container(with_extra, options=options) as container:
            container.wait_healthy(300)  # Panel takes its time to load where much else runs
            url = f"http://127.0.0.1:{given['APERTURE_PORT']}/{name}"
            if extra == "otel":
                assert fetch(url).status == 200
                collector.wait_for("GET request")
                collector.wait_for("session create")
            else:
                tab = tabs(url)
                tab.page.get_by_text("it is 1 now").wait_for()
                tab.page.locator(".noUi-handle").press("ArrowRight")
                tab.page.get_by_text("it is 2 now").wait_for()
                tab.page.close()
            assert container.stop(15) == 0, container.log()


def test_an_extra_that_there_is_not_ends_the_build(clone: Path, image: str) -> None:
    """A slip of the pen is not an image without what was asked for."""
    words = ["--file", str(clone / "deploy" / "Dockerfile"), "--target", "extras", "--build-arg", "EXTRAS=panell"]
    failed = docker("build", *words, str(clone), env={"DOCKER_BUILDKIT": "0"}, check=False, nominal=300)
    assert failed.returncode != 0
    assert "extras/panell.txt" in failed.stdout + failed.stderr
