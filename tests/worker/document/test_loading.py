"""What must load before a worker serves, and the document that an app fills."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import DirectoryHandler, FunctionHandler, ScriptHandler
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.document import Document

from aperture.errors import AppLoadError
from aperture.worker.document.loading import (
    check_imports,
    failure_of,
    new_document,
    use_our_lifecycle,
)
from aperture.worker.patch.callbacks import OrderedCallbacks


def script(folder: Path, source: str, name: str = "app.py") -> Application:
    file = folder / name
    file.write_text(source)
    return Application(ScriptHandler(filename=str(file)))


def test_a_new_document_keeps_the_order_of_its_changes() -> None:
    """Its callbacks are ours, and it is otherwise like any other."""
    document = new_document()
    assert isinstance(document.callbacks, OrderedCallbacks)
    assert document.roots == Document().roots
    seen: list[object] = []
    document.on_message("bokeh_event", seen.append)


def test_a_missing_module_stops_the_start(tmp_path: Path) -> None:
    """With the app's route and its own traceback, down to the line."""
    app = script(tmp_path, "import math\n\n\nimport no_such_module_anywhere\n")
    with pytest.raises(AppLoadError) as caught:
        check_imports({"/app": app})
    assert caught.value.path == "/app"
    assert "no_such_module_anywhere" in caught.value.detail
    assert "app.py" in caught.value.detail
    assert "line 4" in caught.value.detail


@pytest.mark.parametrize(
    "source",
    [
        "from math import sqrt\n",
        "from math import *\n",
        "try:\n    import no_such_module_anywhere\nexcept ImportError:\n    pass\n",
        "def later():\n    import no_such_module_anywhere\n",
        "if False:\n    import no_such_module_anywhere\n",
        "from __future__ import annotations\nimport math\n",
    ],
)
def test_only_what_is_imported_in_any_case_is_imported(tmp_path: Path, source: str) -> None:
    """Imports inside functions, conditions and try blocks may well be meant to fail."""
    check_imports({"/app": script(tmp_path, source)})


def test_nothing_but_imports_is_run(tmp_path: Path) -> None:
    """The app's code is for its sessions."""
    check_imports({"/app": script(tmp_path, "import math\nraise SystemExit('it ran')\n")})


def test_modules_beside_the_app_are_found(tmp_path: Path) -> None:
    """As when the app itself runs; the search path is as before afterwards, also after a failure."""
    (tmp_path / "beside_the_app_4711.py").write_text("VALUE = 1\n")
    before = list(sys.path)
    try:
        check_imports({"/app": script(tmp_path, "import beside_the_app_4711\n")})
        assert "beside_the_app_4711" in sys.modules
        with pytest.raises(AppLoadError):
            check_imports({"/app": script(tmp_path, "import no_such_module_anywhere\n", "other.py")})
        assert sys.path == before
    finally:
        sys.modules.pop("beside_the_app_4711", None)


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Writes modules beside the app; they are forgotten afterwards, and so is what they did to the search path."""
    names: list[str] = []
    path = list(sys.path)

    def write(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            names.append(name)

    yield write
    sys.path[:] = path
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "first",
    [
        "import sys\nsys.path.insert(0, 'lib')\n",
        "import os\nos.environ['NEEDED'] = '1'\n",
        "VALUE = 1\n",
        "from .sibling import setup\n",
    ],
)
def test_what_comes_after_the_first_statement_is_left_to_the_sessions(tmp_path: Path, first: str) -> None:
    """The statement may be what makes the import possible."""
    check_imports({"/app": script(tmp_path, f"'Words.'\n{first}import no_such_module_anywhere\n")})


def test_a_module_that_fails_outside_of_a_session_is_left_to_the_sessions(
    tmp_path: Path, beside: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """With what comes after it, and with a warning that has the traceback."""
    for problem in ("ValueError('needs a session')", "ImportError('needs a session')", "SystemExit(2)"):
        beside(needs_a_session_4711=f"raise {problem}\n")
        source = "import needs_a_session_4711\nimport no_such_module_anywhere\n"
        caplog.clear()
        check_imports({"/app": script(tmp_path, source)})
        assert "left to the sessions" in caplog.text
        assert "needs_a_session_4711.py" in caplog.text


def test_a_module_beside_the_app_that_imports_what_is_missing_stops_the_start(
    tmp_path: Path, beside: Callable[..., None]
) -> None:
    """It would fail for every visitor."""
    beside(needs_more_4711="import no_such_module_anywhere\n")
    with pytest.raises(AppLoadError, match="no_such_module_anywhere"):
        check_imports({"/app": script(tmp_path, "import needs_more_4711\n")})


def test_a_name_that_a_module_has_not_stops_the_start(tmp_path: Path) -> None:
    """As when the other half of an update is missing."""
    with pytest.raises(AppLoadError, match="no_such_name"):
        check_imports({"/app": script(tmp_path, "from math import no_such_name\n")})


def test_imports_find_the_arguments_of_the_app(tmp_path: Path, beside: Callable[..., None]) -> None:
    """A module may parse them."""
    beside(parses_4711="import sys\nSEEN = list(sys.argv)\n")
    file = tmp_path / "app.py"
    file.write_text("import parses_4711\n")
    before = list(sys.argv)
    check_imports({"/app": Application(ScriptHandler(filename=str(file), argv=["--deep"]))})
    assert sys.modules["parses_4711"].SEEN == ["app.py", "--deep"]
    assert sys.argv == before


def test_a_folder_that_an_import_adds_to_the_search_path_stays(tmp_path: Path, beside: Callable[..., None]) -> None:
    """The module is not run again for the session, which imports from there further down."""
    beside(adds_a_folder_4711="import sys\nsys.path.insert(0, '/added')\n")
    before = list(sys.path)
    check_imports({"/app": script(tmp_path, "import adds_a_folder_4711\n")})
    assert sys.path == ["/added", *before]


def test_directory_apps_are_checked_too(tmp_path: Path) -> None:
    """Their code is in main.py."""
    folder = tmp_path / "dashboard"
    folder.mkdir()
    (folder / "main.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(AppLoadError, match="no_such_module_anywhere"):
        check_imports({"/dashboard": Application(DirectoryHandler(filename=str(folder)))})


def test_apps_without_source_and_with_broken_source_are_passed_over(tmp_path: Path) -> None:
    """A function needs no import, and a syntax error is the handler's to report."""
    check_imports({"/f": Application(FunctionHandler(lambda document: None))})
    broken = script(tmp_path, "def (:\n")
    check_imports({"/broken": broken})
    failure = failure_of(broken)
    assert failure is not None
    assert "SyntaxError" in failure


def test_a_healthy_app_has_no_failure(tmp_path: Path) -> None:
    """Nothing is made up."""
    assert failure_of(script(tmp_path, "import math\n")) is None


def test_bokehs_own_lifecycle_is_replaced_once() -> None:
    """Bokeh's collects all garbage after each session; ours calls the same callbacks."""
    application = Application(FunctionHandler(lambda document: None), DocumentLifecycleHandler())
    use_our_lifecycle(application)
    use_our_lifecycle(application)
    kinds = [type(handler).__name__ for handler in application.handlers]
    assert kinds == ["FunctionHandler", "SessionDestroyedHandler"]


class Context:
    """A session context as far as the handler reads it."""

    def __init__(self, document: Document) -> None:
        self._document = document


def lifecycle() -> Any:
    application = Application(FunctionHandler(lambda document: None))
    use_our_lifecycle(application)
    return application.handlers[-1]


def test_destroyed_callbacks_are_called_in_the_order_of_adding() -> None:
    """What is added twice is called once, where it was added first."""
    document = new_document()
    called: list[int] = []

    def noting(number: int) -> Any:
        return lambda session_context: called.append(number)

    callbacks = [noting(number) for number in range(60)]
    for callback in [*callbacks, callbacks[0]]:
        document.on_session_destroyed(callback)
    lifecycle()._on_session_destroyed(Context(document))
    assert called == list(range(60))


def test_all_destroyed_callbacks_are_called_though_one_fails() -> None:
    """With the context, once; what went wrong is one report."""
    document = new_document()
    called: list[object] = []

    def note(session_context: object) -> None:
        called.append(session_context)

    def fail(session_context: object) -> None:
        raise ValueError("no good")

    document.on_session_destroyed(fail)
    document.on_session_destroyed(note)
    context = Context(document)
    with pytest.raises(ExceptionGroup) as caught:
        lifecycle()._on_session_destroyed(context)
    assert [str(problem) for problem in caught.value.exceptions] == ["no good"]
    assert called == [context]
    lifecycle()._on_session_destroyed(context)
    assert called == [context]
