"""The image that `deploy/Dockerfile` makes, built and run by a real engine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.base_images import build
from support.compose import services
from support.dockerfile import stages
from support.engine import PREFIX, Container, docker
from support.fetch import fetch

MEGABYTE = 1_000_000
LARGEST = 250
"""Megabytes that the image may be larger than its base; NumPy, Bokeh and what they need are 180."""
GRACE = 15
"""Seconds; what `docker-compose.yml` gives a node, and five more than `docker stop` does by itself."""
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--tmpfs", "/tmp")
PUBLISHED = ("--publish", "127.0.0.1::5006")


def status(container: Container) -> dict[str, str]:
    """What the kernel says of the container's first process."""
    lines = container.run("cat", "/proc/1/status").stdout.splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def own_layers(image: str) -> list[str]:
    """The layers that are not the base's, lowest first."""

    def layers(tag: str) -> list[str]:
        found: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", tag).stdout)
        return found

    base = layers(base_of(image))
    assert layers(image)[: len(base)] == base
    return layers(image)[len(base) :]


def base_of(image: str) -> str:
    """The image that the last stage begins with, of the version that the Dockerfile names."""
    python = docker("run", "--rm", "--entrypoint", "python", image, "--version").stdout.split()[1]
    return stages()[-1].base.replace("${PYTHON_VERSION}", python.rpartition(".")[0])


def size(image: str) -> int:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)


@pytest.fixture
def as_compose_does(image: str, clone: Path) -> Iterator[Container]:
    """The image with what compose gives a node, but for Redis."""
    service = services()["node"].said
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    mounted = ("--volume", f"{clone}/examples/apps:/apps:ro")
    with Container(image, options=[*HARDENED, *PUBLISHED, *mounted], words=["--num-procs", "2"]) as container:
        yield container


def test_it_is_small_and_code_is_a_layer_of_its_own(image: str) -> None:
    """What apps never use is not in it, and a new version of the code does not move the packages."""
    assert size(image) - size(base_of(image)) < LARGEST * MEGABYTE
    assert len(own_layers(image)) == 2, "packages, and the code with its two programs"
    listed = docker("run", "--rm", "--entrypoint", "sh", image, "-c", "ls / /root /tmp; cat /opt/aperture/locked.txt")
    assert not {"build", "own", "wheels", ".cache"} & set(listed.stdout.split())


def test_it_serves_and_ends_with_no_rights_at_all(as_compose_does: Container) -> None:
    """Process 1 is the supervisor, without root, capabilities or a place to write; SIGTERM ends it with 0, in time."""
    container = as_compose_does
    container.wait_healthy()
    first = status(container)
    assert first["Uid"].split() == ["10001"] * 4
    assert {name: int(first[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == dict.fromkeys(
        ("CapEff", "CapPrm", "CapBnd"), 0
    )
    assert first["NoNewPrivs"] == "1"
    assert "serve" in container.run("cat", "/proc/1/cmdline").stdout.split("\0")
    assert "Read-only" in container.run("touch", "/opt/aperture/mark", check=False).stderr
    for app in ("sliders", "dashboard", "selection", "notes", "weather"):
        assert fetch(f"http://{container.port(5006)}/{app}").status == 200
    assert container.run("aperture-probe", "/readyz", check=False).returncode == 0
    assert container.stop(GRACE) == 0, container.log()


def test_without_apps_it_ends_and_says_why(image: str) -> None:
    """A folder that was forgotten is named, and the container does not start again and again as if it had crashed."""
    empty = docker("run", "--rm", image, check=False)
    assert empty.returncode == 2
    assert "There is no app in /apps" in empty.stderr


def test_one_app_is_served_in_one_line(image: str, clone: Path) -> None:
    """A script is mounted among the apps; nothing else is said."""
    mounted = f"{clone}/examples/apps/sliders.py:/apps/sliders.py:ro"
    with Container(image, options=[*PUBLISHED, "--volume", mounted]) as container:
        container.wait_healthy()
        assert fetch(f"http://{container.port(5006)}/sliders").status == 200
        assert container.stop(GRACE) == 0, container.log()


def test_packages_are_named_at_the_build(image: str, clone: Path) -> None:
    """One build argument adds them, among versions that stay as they were locked."""
    tag = f"{PREFIX}/packages:local"
    dockerfile = str(clone / "deploy" / "Dockerfile")
    packages = "PACKAGES=humanize tornado"
    build("--file", dockerfile, "--target", "extras", "--build-arg", packages, "--tag", tag, str(clone))
    try:
        asked = "import humanize, importlib.metadata as m; print('tornado==' + m.version('tornado'))"
        said = docker("run", "--rm", tag, "/opt/aperture/bin/python", "-c", asked).stdout.strip()
        assert said in (clone / "requirements" / "runtime.txt").read_text().splitlines()
    finally:
        docker("image", "rm", "--force", tag, check=False)


def test_packages_of_ones_own_come_on_top(image: str) -> None:
    """As docs/deploying.md says: an image from ours, with a file of requirements, and apps copied into it."""
    tag = f"{PREFIX}/own:local"
    with tempfile.TemporaryDirectory(prefix="own-") as folder:
        (Path(folder) / "apps").mkdir()
        (Path(folder) / "requirements.txt").write_text("humanize\n")
        (Path(folder) / "apps" / "big.py").write_text(
            "from bokeh.io import curdoc\nfrom bokeh.models import Div\nimport humanize\n"
            "curdoc().add_root(Div(text=humanize.intcomma(1234567)))\n"
        )
        (Path(folder) / "Dockerfile").write_text(_documented().replace("FROM aperture\n", f"FROM {image}\n"))
        build("--tag", tag, folder)
    try:
        with Container(tag, options=PUBLISHED) as container:
            assert docker("image", "inspect", "--format", "{{.Config.User}}", tag).stdout.strip() == "10001:10001"
            container.wait_healthy()
            assert fetch(f"http://{container.port(5006)}/big").status == 200
            assert (
                "1,234,567"
                in container.run("python", "-c", "import humanize; print(humanize.intcomma(1234567))").stdout
            )
    finally:
        docker("image", "rm", "--force", tag, check=False)


def _documented() -> str:
    """The Dockerfile in the page on deploying."""
    page = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()
    lines = page[page.index("    FROM aperture\n") :].split("\n\n")[0].splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines) + "\n"
