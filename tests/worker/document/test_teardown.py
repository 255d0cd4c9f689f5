"""A discarded session's objects go by reference counting alone: with the garbage collector off, nothing may remain."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler, ScriptHandler
from bokeh.document import Document
from bokeh.document.callbacks import DocumentCallbackManager
from bokeh.events import ConnectionLost
from bokeh.models import Column, ColumnDataSource, CustomJS
from bokeh.models.widgets import Button, Div, Slider
from bokeh.plotting import figure
from support.peers import Peer, in_loop

from aperture.worker.document.loading import new_document
from aperture.worker.document.teardown import take_apart
from aperture.worker.session.host import AppHost, Origin

SCRIPT = """
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Button, Div, Slider
from bokeh.plotting import figure

source = ColumnDataSource({"x": [1, 2], "y": [3, 4]})
plot = figure(width=200, height=200)
plot.line("x", "y", source=source)
slider = Slider(start=0, end=10, value=0)
button = Button(label="go")

def moved(attr, old, new):
    source.data = {"x": [new], "y": [new]}
    curdoc().title = str(new)

def tick():
    slider.value += 1

slider.on_change("value", moved)
button.on_click(lambda: moved("value", 0, 1))
curdoc().add_root(column(slider, button, plot))
curdoc().add_periodic_callback(tick, 60_000)
curdoc().add_timeout_callback(tick, 60_000)
curdoc().on_session_destroyed(lambda session_context: tick)
"""


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Reference counting is all there is."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def function_app(document: Document) -> None:
    source = ColumnDataSource({"x": [1, 2], "y": [3, 4]})
    plot = figure(width=200, height=200)
    plot.line("x", "y", source=source)
    slider, button, shown = Slider(start=0, end=10, value=0), Button(label="go"), Div(text="")
    slider.js_on_change("value", CustomJS(args={"source": source}, code=""))

    def moved(attr: str, old: int, new: int) -> None:
        shown.text = str(new)
        source.stream({"x": [new], "y": [new]})
        document.title = str(new)

    slider.on_change("value", moved)
    button.on_click(lambda: moved("value", 0, 1))
    document.on_event(ConnectionLost, lambda event: shown.update(text="lost"))
    document.on_change(lambda event: None)
    document.add_periodic_callback(lambda: moved("value", 0, 1), 60_000)
    document.add_timeout_callback(lambda: moved("value", 0, 1), 60_000)
    document.on_session_destroyed(lambda session_context: shown.update(text="end"))
    document.add_root(Column(children=[slider, button, shown, plot]))


async def live_and_end(application: Application) -> dict[str, weakref.ref[object]]:
    """A session's whole life, with viewers and changes; weak references to its objects."""
    host = AppHost("/app", application, logout_url=None, issue_token=str)
    session = await host.build("s", Origin(None, {}))
    document = session.document
    slider = next(model for model in document.models if isinstance(model, Slider))
    peer, other = Peer.pulled(session), Peer.pulled(session)
    peer.change(lambda: peer.find(slider).update(value=5))
    other.change(lambda: other.find(slider).update(value=6))
    await session.with_document_locked(lambda: slider.update(value=7))
    for viewer in (peer, other):
        session.detach(viewer.viewer)
        viewer.session = None  # type: ignore[assignment]
    refs: dict[str, weakref.ref[object]] = {
        f"{type(model).__name__} {model.id}": weakref.ref(model) for model in document.models
    }
    refs |= {f"module {module.__name__}": weakref.ref(module) for module in document.modules._modules}
    refs |= {f"configuration {model.id}": weakref.ref(model) for model in document.config.references()}
    refs["document"] = weakref.ref(document)
    refs["its callbacks"] = weakref.ref(document.callbacks)
    refs["session"] = weakref.ref(session)
    await turns()
    await host.retire(session)
    for _ in take_apart(document):
        pass
    await turns()
    return refs


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


def remaining(refs: dict[str, weakref.ref[object]]) -> list[str]:
    return [name for name, ref in refs.items() if ref() is not None]


@pytest.mark.usefixtures("no_gc")
@in_loop
async def test_a_function_apps_session_is_freed() -> None:
    """Its closures hold its models and its models hold the closures."""
    assert remaining(await live_and_end(Application(FunctionHandler(function_app)))) == []


@pytest.mark.usefixtures("no_gc")
@in_loop
async def test_a_script_apps_session_is_freed(tmp_path: Path) -> None:
    """Its module holds its functions, which hold the module's names; and the interpreter forgets the module."""
    file = tmp_path / "app.py"
    file.write_text(SCRIPT)
    before = set(sys.modules)
    refs = await live_and_end(Application(ScriptHandler(filename=str(file))))
    assert any(name.startswith("module ") for name in refs)
    assert remaining(refs) == []
    assert {name for name in set(sys.modules) - before if name.startswith("bokeh_app_")} == set()


def test_large_documents_are_taken_apart_in_steps() -> None:
    """The caller may serve others between two of them."""
    document = new_document()
    document.add_root(Column(children=[Div() for _ in range(1000)]))
    assert sum(1 for _ in take_apart(document)) > 5
    assert len(document.models) == 0
    assert document.roots == []


@pytest.mark.usefixtures("no_gc")
def test_a_new_document_leaves_nothing_of_bokehs_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What we replace in it is freed at once, too."""
    replaced: list[weakref.ref[object]] = []
    init = DocumentCallbackManager.__init__

    def noting(manager: DocumentCallbackManager, document: Document) -> None:
        init(manager, document)
        replaced.append(weakref.ref(manager))

    monkeypatch.setattr(DocumentCallbackManager, "__init__", noting)
    document = new_document()
    assert [ref() for ref in replaced] == [None, document.callbacks]


def test_taking_apart_twice_is_harmless() -> None:
    """An empty document too."""
    document = new_document()
    for _ in range(2):
        for _ in take_apart(document):
            pass


def test_only_the_documents_own_modules_are_forgotten() -> None:
    """Another session's module of the same app stays."""
    mine, other = ModuleType("bokeh_app_mine"), ModuleType("bokeh_app_other")
    sys.modules["bokeh_app_other"] = other
    try:
        document = new_document()
        document.modules.add(mine)
        assert "bokeh_app_mine" in sys.modules
        for _ in take_apart(document):
            pass
        assert "bokeh_app_mine" not in sys.modules
        assert sys.modules["bokeh_app_other"] is other
    finally:
        del sys.modules["bokeh_app_other"]
