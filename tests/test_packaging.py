"""What is installed is what is in the tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.patience import seconds

import aperture

ROOT = Path(__file__).parents[1]
FOLDERS = {"shared": "aperture", "gateway": "aperture.gateway", "worker": "aperture.worker"}
BUILD_SECONDS = 120


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a freshly built wheel."""
    made = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(made), str(_copy_of_the_tree(made))],
        capture_output=True,
        text=True,
        timeout=seconds(BUILD_SECONDS),
    )
    assert built.returncode == 0, built.stderr
    return set(zipfile.ZipFile(next(made.glob("*.whl"))).namelist())


def _copy_of_the_tree(made: Path) -> Path:
    """Building writes into the tree, which other tests are reading."""
    copy = made / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for folder in FOLDERS:
        for file in _sources(folder):
            target = copy / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return copy


def _sources(folder: str) -> list[Path]:
    return [
        file
        for file in sorted((ROOT / folder).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"
    ]


def _installed_name(folder: str, file: Path) -> str:
    return "/".join([*FOLDERS[folder].split("."), *file.relative_to(ROOT / folder).parts])


def test_every_package_of_the_tree_is_listed(project: dict[str, Any]) -> None:
    """A package that is missing from the list works in an editable install and is absent from the wheel."""
    in_tree = {
        ".".join([package, *file.parent.relative_to(ROOT / folder).parts])
        for folder, package in FOLDERS.items()
        for file in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == in_tree


def test_every_folder_with_code_is_a_package() -> None:
    """A folder of modules without an `__init__.py` would be a namespace package and not be installed."""
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), f"{file.parent} has no __init__.py"


def test_the_wheel_holds_every_file_and_nothing_else(wheel: set[str]) -> None:
    """Templates and py.typed are in it, and nothing lies outside of `aperture`."""
    expected = {_installed_name(folder, file) for folder in FOLDERS for file in _sources(folder)}
    assert {name for name in wheel if ".dist-info/" not in name} == expected


def test_the_wheel_carries_its_license(wheel: set[str]) -> None:
    """BSD-3-Clause asks for it."""
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_package_is_imported_from_this_tree() -> None:
    """Otherwise the suite would test something that was installed once."""
    assert Path(aperture.__file__) == ROOT / "shared" / "__init__.py"


def test_locked_versions_lie_in_the_declared_ranges(project: dict[str, Any]) -> None:
    """What `make` installs is what pyproject allows, so that pip has nothing to say against it."""
    lines = [
        line
        for name in ("runtime.txt", "panel.txt", "otel.txt", "development.txt")
        for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "-r"))
    ]
    locked = {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}
    extras = project["project"]["optional-dependencies"]
    for text in [*project["project"]["dependencies"], *extras["test"], *extras["lint"], *extras["docs"]]:
        wanted = Requirement(text)
        (pin,) = locked[wanted.name.lower()].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), f"{text} does not allow {pin.version}"


@pytest.mark.parametrize("extra", ["panel", "otel"])
def test_an_extra_is_locked_with_all_that_it_needs(project: dict[str, Any], extra: str) -> None:
    """An image with it asks an index for nothing that its file does not name, and both files agree."""
    pins = {name: _pins(f"{name}.txt") for name in ("runtime", "panel", "otel")}
    asked = [Requirement(text).name for text in project["project"]["optional-dependencies"][extra]]
    needed: set[str] = set()
    while asked:
        name = canonicalize_name(asked.pop())
        if name not in needed:
            needed.add(name)
            asked += [wanted.name for wanted in map(Requirement, requires(name) or ()) if _is_for_us(wanted)]
    # Some is needed by older Pythons than this one alone.
    assert needed - pins["runtime"].keys() <= pins[extra].keys()
    shared = pins["panel"].keys() & pins["otel"].keys()
    assert {pins["panel"][name] for name in shared} == {pins["otel"][name] for name in shared}


def _pins(file: str) -> dict[str, str]:
    """The lines of a lock, by package."""
    lines = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name): line for line in lines if line and line[0] not in "#-"}


def _is_for_us(wanted: Requirement) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": ""})


def test_the_supported_pythons_are_said_alike(project: dict[str, Any]) -> None:
    """In the metadata, the Makefile, the README and the lock."""
    classifiers = project["project"]["classifiers"]
    named = [line.rpartition(" ")[2] for line in classifiers if re.search(r"Python :: 3\.\d+$", line)]
    first, last = named[0], named[-1]
    minors = [int(version.partition(".")[2]) for version in named]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert project["project"]["requires-python"] == f">={first},<3.{minors[-1] + 1}"
    listed = f"{', '.join(named[:-1])} or {last}"
    makefile = (ROOT / "Makefile").read_text()
    assert f"not (3, {minors[0]}) <= sys.version_info < (3, {minors[-1] + 1})" in makefile
    assert f"Python {listed}" in makefile
    assert f"Python {listed}" in (ROOT / "README.md").read_text()
    for text in (makefile, (ROOT / "requirements" / "runtime.txt").read_text()):
        assert f"Python {first} to {last}" in text


def test_the_tests_start_where_pytest_asyncio_is_installed(tmp_path: Path) -> None:
    """It warns where nothing configures it, and warnings are errors here; nothing here needs it."""
    (tmp_path / "unconfigured.py").write_text("def pytest_configure():\n    raise DeprecationWarning('unset')\n")
    installed = tmp_path / "pytest_asyncio-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-asyncio\nVersion: 0\n")
    (installed / "entry_points.txt").write_text("[pytest11]\nasyncio = unconfigured\n")
    started = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/test_packaging.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=seconds(60),
        check=False,
    )
    assert started.returncode == 0, started.stdout + started.stderr
