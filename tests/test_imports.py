"""Which apps are written with Panel, as their files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aperture.imports import parsed, written_with_panel


@pytest.mark.parametrize(
    ("source", "panels"),
    [
        ("import panel as pn", True),
        ("import os\nos.environ['A'] = '1'\nfrom panel.widgets import IntSlider", True),
        ("def app():\n    import panel", True),
        ("import panel_material_ui as pmu", True),
        ("import lumen", True),
        ("import panels, paneling", False),
        ("from bokeh.io import curdoc", False),
        ("import panel (", False),
    ],
)
def test_a_script_is_known_by_what_it_imports(tmp_path: Path, source: str, panels: bool) -> None:
    """Anywhere in it; one that cannot be compiled is reported when the app is built."""
    script = tmp_path / "app.py"
    script.write_text(source)
    assert written_with_panel(str(script)) is panels


def test_an_apps_own_modules_are_its_files_too(tmp_path: Path) -> None:
    """Beside a script, and in packages; those that nothing imports are not a script's, and are a folder's."""
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "__init__.py").write_text("from . import charts")
    (tmp_path / "charts.py").write_text("import panel")
    (tmp_path / "app.py").write_text("from views import charts")
    (tmp_path / "main.py").write_text("import bokeh")
    assert written_with_panel(str(tmp_path / "app.py"))
    assert not written_with_panel(str(tmp_path / "main.py"))
    assert written_with_panel(str(tmp_path))


def test_modules_that_import_each_other_are_read_once(tmp_path: Path) -> None:
    """A circle ends."""
    (tmp_path / "one.py").write_text("import two")
    (tmp_path / "two.py").write_text("import one")
    assert not written_with_panel(str(tmp_path / "one.py"))


def test_notebooks_are_known_by_their_cells_and_markdown_is_panels(tmp_path: Path) -> None:
    """Magics are no Python. A damaged notebook is reported when the app is built."""
    book = tmp_path / "book.ipynb"
    cells = [
        {"cell_type": "markdown", "source": ["import panel"]},
        {"cell_type": "code", "source": ["%pip x\n", "a=1"]},
    ]
    book.write_text(json.dumps({"cells": cells}))
    assert not written_with_panel(str(book))
    cells[1]["source"] = ["%pip install panel\n", "import panel"]
    book.write_text(json.dumps({"cells": cells}))
    assert written_with_panel(str(book))
    for damaged in ("{", "[]", '{"cells": 3}', '{"cells": [{"cell_type": "code"}]}'):
        book.write_text(damaged)
        assert parsed(book) is None
    assert written_with_panel(str(tmp_path / "any.md"))
