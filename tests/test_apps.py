"""What apps are made of, with Panel imported or not."""

from __future__ import annotations

import logging
from pathlib import Path

import bokeh.application.handlers.directory as folders
import bokeh.command.util
import pytest
from bokeh.application import Application
from bokeh.application.handlers import DirectoryHandler, FunctionHandler, ScriptHandler

from aperture.apps import built, is_panels, route_of


class PanelsScript(ScriptHandler):
    """In Bokeh's place, as Panel puts it there."""


PanelsApplication = type("Application", (Application,), {"__module__": "panel.io.application"})


@pytest.fixture
def panel_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an import of Panel replaces, replaced."""
    monkeypatch.setattr(bokeh.command.util, "Application", PanelsApplication)
    monkeypatch.setattr(folders, "ScriptHandler", PanelsScript)


@pytest.mark.usefixtures("panel_imported")
def test_apps_are_of_bokehs_classes_whatever_stands_in_their_place(tmp_path: Path) -> None:
    """A file's, and what a folder's runs."""
    (tmp_path / "main.py").write_text("")
    (tmp_path / "__init__.py").write_text("")
    script, folder = built(str(tmp_path / "main.py"), []), built(str(tmp_path), [])
    assert [type(app) for app in (script, folder)] == [Application, Application]
    assert type(script.handlers[0]) is ScriptHandler
    (handler,) = folder.handlers[:1]
    assert isinstance(handler, DirectoryHandler)
    assert type(handler._main_handler) is ScriptHandler
    assert handler._main_handler._runner._package is handler._package
    assert (route_of(str(tmp_path / "main.py")), route_of(str(tmp_path))) == ("/main", f"/{tmp_path.name}")


def test_an_application_of_panels_is_known_by_its_class() -> None:
    """A subclass of anybody else's is Bokeh's."""
    handler = FunctionHandler(lambda document: None)
    assert is_panels(PanelsApplication(handler))
    assert not is_panels(type("Mine", (Application,), {})(handler))


def test_a_main_py_by_itself_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in Bokeh: most often the folder is meant."""
    (tmp_path / "main.py").write_text("")
    with caplog.at_level(logging.WARNING):
        built(str(tmp_path / "main.py"), [])
    assert "without what is in its folder" in caplog.text


def test_what_is_no_app_is_refused(tmp_path: Path) -> None:
    """By its name."""
    (tmp_path / "app.txt").write_text("")
    with pytest.raises(ValueError, match=r"app\.txt"):
        built(str(tmp_path / "app.txt"), [])
