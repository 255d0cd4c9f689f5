"""The image, built once for every test that runs it; without an engine these tests are skipped, and say why."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.base_images import build, image_lock, prepare, why_no_images
from support.browser import chromium, tabs
from support.dockerfile import ROOT
from support.engine import PREFIX, docker

__all__ = ["chromium", "clone", "image", "tabs"]

IMAGE = f"{PREFIX}/image:local"


@pytest.fixture(scope="session")
def engine() -> None:
    """An engine with base images."""
    if reason := why_no_images():
        pytest.skip(reason)
    prepare()


@pytest.fixture(scope="session")
def clone(engine: None) -> Iterator[Path]:
    """What a clone of this tree would be: the files that git knows or would take, and no others."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    named = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="clone-") as folder:
        for name in filter(None, named):
            if (ROOT / name).is_file():  # deleted, and not committed as such yet
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
        # Containers run as another user, who must get at the apps.
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def image(clone: Path) -> str:
    """The tag of the image, built of a clone; where nothing has changed the engine has all layers already."""
    with image_lock():
        old = docker("image", "ls", "--quiet", "--no-trunc", IMAGE).stdout.strip()
        build("--file", str(clone / "deploy" / "Dockerfile"), "--tag", IMAGE, str(clone))
        if old and old != docker("image", "ls", "--quiet", "--no-trunc", IMAGE).stdout.strip():
            docker("image", "rm", old, check=False)  # in use by another run, if it stays
    return IMAGE
