"""When `--dev` starts over."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aperture.gateway.supervise.reload import Changes, imported_files, watched_files


def touch(path: Path) -> None:
    """Change a file such that it shows, whatever the clock's resolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("#")


def names(app: Path, *further: Path) -> set[str]:
    return {path.name for path in watched_files(str(app), [str(path) for path in further])}


def test_a_folder_is_watched_with_all_below(tmp_path: Path) -> None:
    """Code, templates, styles and themes; not what the app may write itself."""
    for name in ("main.py", "deep/er/mod.py", "templates/index.html", "static/a.css", "theme.yaml", "log.txt"):
        touch(tmp_path / name)
    assert names(tmp_path) == {"main.py", "mod.py", "index.html", "a.css", "theme.yaml"}


@pytest.mark.parametrize("folder", [".venv/lib", ".git", "site-packages/x", "node_modules/x", "__pycache__", "env/lib"])
def test_what_is_installed_below_a_folder_is_not_walked(tmp_path: Path, folder: str) -> None:
    """It may be thousands of files, twice a second."""
    touch(tmp_path / "main.py")
    touch(tmp_path / folder / "other.py")
    touch(tmp_path / "env" / "pyvenv.cfg")
    assert names(tmp_path) == {"main.py"}


def test_a_module_from_elsewhere_that_was_imported_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From when it is first seen: it is imported after the watch has begun."""
    touch(tmp_path / "app" / "main.py")
    touch(tmp_path / "elsewhere" / "watched_4711.py")
    changes = Changes(str(tmp_path / "app"))
    module = ModuleType("watched_4711")
    module.__file__ = str(tmp_path / "elsewhere" / "watched_4711.py")
    monkeypatch.setitem(sys.modules, "watched_4711", module)
    assert not changes()
    touch(tmp_path / "elsewhere" / "watched_4711.py")
    assert changes()


def test_installed_modules_are_not_watched() -> None:
    """Bokeh alone has hundreds, which are not edited while working on an app."""
    assert not {"pytest", "json"} & {path.parent.name for path in imported_files()}


def test_a_script_is_watched_with_the_modules_beside_it(tmp_path: Path) -> None:
    """They are what it can import without further ado."""
    for name in ("app.py", "beside.py", "below/other.py", "page.html", "named.txt"):
        touch(tmp_path / name)
    assert names(tmp_path / "app.py", tmp_path / "named.txt") == {"app.py", "beside.py", "named.txt"}


def test_a_notebook_is_watched_itself(tmp_path: Path) -> None:
    """Its suffix is in no pattern."""
    touch(tmp_path / "app.ipynb")
    assert names(tmp_path / "app.ipynb") == {"app.ipynb"}


def test_nothing_changes_by_looking(tmp_path: Path) -> None:
    """Reading a file is no change."""
    touch(tmp_path / "app.py")
    changes = Changes(str(tmp_path / "app.py"))
    (tmp_path / "app.py").read_text()
    assert not changes()
    assert not changes.seen


def test_an_edited_a_new_and_a_deleted_file_are_changes(tmp_path: Path) -> None:
    """Each alone."""
    touch(tmp_path / "main.py")
    touch(tmp_path / "gone.py")
    edited, new, deleted = (Changes(str(tmp_path)) for _ in range(3))
    touch(tmp_path / "main.py")
    assert edited()
    new = Changes(str(tmp_path))
    touch(tmp_path / "new.py")
    assert new()
    deleted = Changes(str(tmp_path))
    (tmp_path / "gone.py").unlink()
    assert deleted()


def test_a_new_time_alone_is_a_change(tmp_path: Path) -> None:
    """An edit may keep the size."""
    touch(tmp_path / "main.py")
    changes = Changes(str(tmp_path))
    os.utime(tmp_path / "main.py", (1, 1))
    assert changes()


def test_a_change_stays_seen(tmp_path: Path) -> None:
    """Draining takes a while, and an undone edit does not call it off."""
    touch(tmp_path / "main.py")
    changes = Changes(str(tmp_path))
    before = (tmp_path / "main.py").stat()
    os.utime(tmp_path / "main.py", (1, 1))
    assert changes()
    os.utime(tmp_path / "main.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changes()
