"""Which imports of an app are done before the fork."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aperture.gateway.supervise.preload import ImportedName, foreign_imports, preload
from aperture.gateway.supervise.trial import left_behind

# Python warns of forks beside threads. The supervisor has none; a test's process has those of its runner.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def write(folder: Path, **sources: str) -> Path:
    """Python files by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def modules(*apps: Path) -> list[str]:
    return [imported.module for app in apps for imported in foreign_imports(str(app))]


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
    assert foreign_imports(str(tmp_path / "app.py")) == [
        ImportedName("a"),
        ImportedName("b.c"),
        ImportedName("d", "e"),
        ImportedName("d", "f"),
        ImportedName("g"),
    ]


def test_imports_in_functions_do_not_count(tmp_path: Path) -> None:
    """A function may never be called, and may be where a module is that must not be forked."""
    write(tmp_path, app="import a\ndef f():\n import no\n\nclass C:\n def f(self):\n  import no\nimport b\n")
    assert modules(tmp_path / "app.py") == ["a", "b"]


def test_an_import_that_is_tried_counts_and_the_one_instead_of_it_does_not(tmp_path: Path) -> None:
    """Only when the first is missing would the second run."""
    write(tmp_path, app="try:\n import a\nexcept ImportError:\n a = None\nimport b\n")
    assert modules(tmp_path / "app.py") == ["a", "b"]
    write(tmp_path, app="try:\n import a\nexcept ImportError:\n import no\nimport no\n")
    assert modules(tmp_path / "app.py") == ["a"]


@pytest.mark.parametrize(
    "statement",
    [
        "import os\nos.environ['NEEDED'] = '1'",
        "import os\nos.path.join()",
        "import os\nx = os.path.join()",
        "if 1:\n import no",
        "if not TYPE_CHECKING:\n setup()",
        "if __name__.startswith('bokeh'):\n setup()",
        "with open(p):\n import no",
        "class C:\n setup()",
        "import sys\nsys.path += ['lib']",
        "del x",
    ],
)
def test_what_comes_after_a_statement_that_may_prepare_it_is_left_out(statement: str, tmp_path: Path) -> None:
    """Whether it stands in the app, or in a module of the app's that is imported first."""
    write(tmp_path, app=f"import a\n{statement}\nimport no\n", by_module="import prepared\nimport no\n")
    write(tmp_path, prepared=f"import a\n{statement}\n")
    for app in ("app.py", "by_module.py"):
        assert set(modules(tmp_path / app)) <= {"a", "os", "sys"}


def test_definitions_and_constants_prepare_nothing(tmp_path: Path) -> None:
    """They may stand between imports."""
    write(
        tmp_path,
        app="'Words.'\nfrom __future__ import annotations\nimport a\nX: int = 1\nY = [X, a.b]\n"
        "@a.c\nclass C:\n x = 1\n def f(self): ...\nasync def g(): a()\nimport b\n",
    )
    assert modules(tmp_path / "app.py") == ["a", "b"]


def test_what_a_load_hook_may_prepare_is_left_out(tmp_path: Path) -> None:
    """It runs when the server starts, before the app's own imports."""
    write(tmp_path, app_hooks="import a\ndef on_server_loaded(context): ...\n", main="import no\n")
    assert modules(tmp_path) == ["a"]


def test_imports_that_do_not_run_are_left_out(tmp_path: Path) -> None:
    """Those for type checkers, and those of a script that is run by itself."""
    write(
        tmp_path,
        app="import typing\nif typing.TYPE_CHECKING:\n import a\nif __name__ == '__main__':\n import b\nimport c\n",
    )
    assert modules(tmp_path / "app.py") == ["typing", "c"]


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


def test_what_comes_after_an_import_that_fails_is_left_to_the_worker(elsewhere: Path, tmp_path: Path) -> None:
    """It may need what the first would have done; other apps do not care."""
    write(elsewhere, preloaded_broken="raise ValueError", preloaded_next="", preloaded_other="")
    write(tmp_path / "app", main="import preloaded_broken\nimport preloaded_next\n")
    write(tmp_path / "other", main="import preloaded_other\n")
    preload([str(tmp_path / "app"), str(tmp_path / "other")])
    assert "preloaded_next" not in sys.modules
    assert "preloaded_other" in sys.modules


def test_nothing_of_the_apps_is_imported_without_preload(elsewhere: Path, tmp_path: Path) -> None:
    """With `--no-preload`, only what every server needs is."""
    write(elsewhere, preloaded_unwanted="")
    write(tmp_path / "app", main="import preloaded_unwanted\n")
    preload([str(tmp_path / "app")], foreign=False)
    assert "preloaded_unwanted" not in sys.modules


THREAD = "import threading\nt = threading.Thread(target=threading.Event().wait, daemon=True)\nt.start()\n"
TIMER = "import threading\nt = threading.Timer(3600, print)\nt.daemon = True\nt.start()\n"
EXECUTOR = "from concurrent.futures import ThreadPoolExecutor\ne = ThreadPoolExecutor()\ne.submit(print)\n"
SOCKET = "import socket\npair = socket.socketpair()\n"
PROCESS = "import subprocess, sys\np = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
CRASH = "import os\nos._exit(3)\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (THREAD, "starts threads"),
        (TIMER, "starts threads"),
        (EXECUTOR, "starts threads"),
        (SOCKET, "opens sockets"),
        (PROCESS, "starts processes"),
        (CRASH, "ends the process"),
    ],
)
def test_what_no_fork_divides_is_left_to_the_workers(
    source: str, reason: str, elsewhere: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And with it what comes after it in the app, and whatever imports it; other apps' imports are done."""
    write(elsewhere, preloaded_calm="", preloaded_unfit=source, preloaded_next="")
    write(elsewhere, preloaded_user="import preloaded_unfit")
    write(tmp_path / "app", main="import preloaded_calm\nimport preloaded_unfit\nimport preloaded_next\n")
    write(tmp_path / "other", main="import preloaded_user\n")
    write(tmp_path / "third", main="import preloaded_calm\n")
    threads, look = threading.active_count(), left_behind()
    with caplog.at_level(logging.INFO):
        preload([str(tmp_path / name) for name in ("app", "other", "third")])
    assert {name for name in sys.modules if name.startswith("preloaded_")} == {"preloaded_calm"}
    assert (threading.active_count(), look()) == (threads, None)
    for module in ("preloaded_unfit", "preloaded_user"):
        assert f"{module} is imported in each worker: it {reason}" in caplog.text


def test_a_trial_leaves_nothing_behind(elsewhere: Path, tmp_path: Path) -> None:
    """No process, no line, and no file that would have been removed at exit."""
    source = (
        "import os, sys, tempfile\nprint('printed')\nfolder = tempfile.TemporaryDirectory()\n"
        f"open({str(tmp_path / 'tried')!r}, 'a').write(folder.name + ' ' + str(os.getpid()) + '\\n')\n" + THREAD
    )
    write(elsewhere, preloaded_untidy=source)
    write(tmp_path / "app", main="import preloaded_untidy\n")
    preload([str(tmp_path / "app")])
    ((folder, pid),) = [line.split() for line in (tmp_path / "tried").read_text().splitlines()]
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
