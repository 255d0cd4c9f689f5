"""The program on the page about session state does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import ScriptHandler
from bokeh.document import Document
from bokeh.events import ButtonClick
from support.documented import programs_in

from aperture import session_state

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "session-state.md"


@pytest.fixture
def program(tmp_path: Path) -> Application:
    """The page's only program, as an app."""
    (documented,) = programs_in(PAGE)
    file = tmp_path / "undo.py"
    file.write_text(documented.source, encoding="utf-8")
    return Application(ScriptHandler(filename=str(file)))


def undo(document: Document) -> Any:
    button: Any = document.get_model_by_name("undo")
    button._trigger_event(ButtonClick(button))
    slider: Any = document.get_model_by_name("slider")
    return slider.value


def test_the_history_is_there_when_the_code_runs_again(program: Application) -> None:
    """Each step back is taken once, in this run or in the next."""
    before, after = Document(), Document()
    program.initialize_document(before)
    slider: Any = before.get_model_by_name("slider")
    for value in (10, 20, 30):
        slider.value = value
    assert undo(before) == 20
    session_state(after).lay(session_state(before).packed())
    program.initialize_document(after)
    assert session_state(after) == {"history": [0, 10]}
    assert [undo(after), undo(after), undo(after)] == [10, 0, 0]


def test_the_pages_links_lead_somewhere() -> None:
    """From this page, and to it."""
    for page in (PAGE, ROOT / "README.md", ROOT / "examples" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
