"""Which imports of an app are done before the fork."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aperture.gateway.preload import ImportedName, foreign_imports, preload


def write(folder: Path, **sources: str) -> Path:
    """Python files by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def modules(*apps: Path) -> list[str]:
    return [imported.module for imported in foreign_imports([str(app) for app in apps])]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, whose modules are forgotten afterwards."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_top_level_imports_are_found_in_order_and_once(tmp_path: Path) -> None:
    """In whichever form they are written."""
    write(tmp_path, app="import a, b.c\nfrom d import e, f\nimport a\nfrom g import *\n")
    assert foreign_imports([str(tmp_path / "app.py")]) == [
        ImportedName("a"),
        ImportedName("b.c"),
        ImportedName("d", "e"),
        ImportedName("d", "f"),
    ]


def test_imports_in_blocks_count_and_those_in_functions_do_not(tmp_path: Path) -> None:
    """A function may never be called, and may be where a module is that must not be forked."""
    write(
        tmp_path,
        app="try:\n import a\nexcept ImportError:\n import b\nif 1:\n import c\nelse:\n import d\n"
        "def f():\n import no\nclass C:\n import no\nwith open(p):\n import e\n",
    )
    assert modules(tmp_path / "app.py") == ["a", "b", "c", "d", "e"]


def test_imports_that_do_not_run_are_left_out(tmp_path: Path) -> None:
    """Those for type checkers, and those of a script that is run by itself."""
    write(
        tmp_path,
        app="import typing\nif typing.TYPE_CHECKING:\n import a\nif __name__ == '__main__':\n import b\n",
    )
    assert modules(tmp_path / "app.py") == ["typing"]


def test_own_modules_are_read_and_not_imported(tmp_path: Path) -> None:
    """What they import from elsewhere counts; a circle among them ends."""
    write(
        tmp_path, app="import mine\n", mine="import app, numpy\nfrom package.deep import thing\n", unused="import no\n"
    )
    write(tmp_path / "package", __init__="import one\n", deep="from . import sibling\nimport two\n")
    assert modules(tmp_path / "app.py") == ["numpy", "one", "two"]


def test_a_folder_app_starts_at_what_bokeh_runs_of_it(tmp_path: Path) -> None:
    """Hooks, too; a file that nothing imports is not looked at."""
    write(tmp_path, main="from . import parts\n", parts="import a\n", app_hooks="import b\n", stray="import no\n")
    assert modules(tmp_path) == ["b", "a"]


def test_a_notebook_is_read_without_its_magics(tmp_path: Path) -> None:
    """Code cells only."""
    cells = [
        {"cell_type": "markdown", "source": ["import no"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "!pip list\n", "import a\n", "import b"]},
    ]
    (tmp_path / "app.ipynb").write_text(json.dumps({"cells": cells}))
    assert modules(tmp_path / "app.ipynb") == ["a", "b"]


@pytest.mark.parametrize("source", [b"def (", b"\xff\xfe\x00", b"\0"])
def test_a_file_that_is_not_python_has_no_imports(source: bytes, tmp_path: Path) -> None:
    """The worker will say what is wrong with it."""
    (tmp_path / "app.py").write_bytes(source)
    assert modules(tmp_path / "app.py") == []


def test_what_an_app_imports_is_imported(elsewhere: Path, tmp_path: Path) -> None:
    """Submodules that are imported by `from` included."""
    write(elsewhere / "preloaded_package", __init__="", part="")
    write(tmp_path / "app", main="from preloaded_package import part\n")
    preload([str(tmp_path / "app")])
    assert "preloaded_package.part" in sys.modules


@pytest.mark.parametrize("source", ["raise ValueError", "import sys; sys.exit(3)", "import nothing_of_that_name"])
def test_an_import_that_fails_is_left_to_the_worker(source: str, elsewhere: Path, tmp_path: Path) -> None:
    """It fails there again, with the app's name."""
    write(elsewhere, preloaded_broken=source)
    write(tmp_path / "app", main="import preloaded_broken\n")
    preload([str(tmp_path / "app")])


def test_a_thread_started_by_an_import_is_warned_of(
    elsewhere: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be missing in every worker."""
    source = "import threading\nstop = threading.Event()\nt = threading.Thread(target=stop.wait)\nt.start()\n"
    write(elsewhere, preloaded_thread=source)
    write(tmp_path / "app", main="import preloaded_thread\n")
    threads = threading.active_count()
    preload([str(tmp_path / "app")])
    started = sys.modules["preloaded_thread"]
    started.stop.set()
    started.t.join()
    assert threading.active_count() == threads
    assert "started 1 thread(s)" in caplog.text
