"""Classes that scripts define: in Bokeh's tables as long as their session, and no page's trouble afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler, ScriptHandler
from bokeh.core.has_props import HasProps, _default_resolver
from bokeh.core.serialization import Deserializer, Serializer
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent
from bokeh.events import _CONCRETE_EVENT_CLASSES
from bokeh.models.widgets import Div, Slider
from support.peers import in_loop

from aperture.errors import AppQuit
from aperture.worker.document.classes import forget_classes, only_packaged_models
from aperture.worker.document.teardown import take_apart
from aperture.worker.http.resources import PageResources
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.session import Session

SCRIPT = """
from bokeh.core.has_props import HasProps
from bokeh.core.properties import Int
from bokeh.core.serialization import Serializer
from bokeh.events import Event
from bokeh.io import curdoc
from bokeh.model import DataModel
from bokeh.models.widgets import Div

class Point(DataModel):
    x = Int()

class Near(Point):
    pass

class Loud(Div):
    pass

class Plain(HasProps):
    pass

class Shouted(Event):
    event_name = "shouted"

class Value:
    pass

Serializer.register(Value, lambda value, serializer: 5)
curdoc().add_root(Loud(text="!"))
curdoc().add_root(Near(x=1))
"""


@pytest.fixture(autouse=True)
def tables() -> Iterator[list[frozenset[object]]]:
    """What is in Bokeh's tables before; what a test has left in them is in no other's way."""
    before = dict(_default_resolver._known_models)  # type: ignore[attr-defined]
    yield entries()
    _default_resolver._known_models = before  # type: ignore[attr-defined]


def entries() -> list[frozenset[object]]:
    tables: list[dict[object, object]] = [
        HasProps.model_class_reverse_map,  # type: ignore[list-item]
        _CONCRETE_EVENT_CLASSES,  # type: ignore[list-item]
        DocumentPatchedEvent._handlers,  # type: ignore[list-item]
        Serializer._encoders,  # type: ignore[list-item]
        Deserializer._decoders,  # type: ignore[list-item]
    ]
    return [frozenset(table.items()) for table in tables]


def script_host(folder: Path, source: str) -> AppHost:
    script = folder / "script.py"
    script.write_text(source)
    handler = ScriptHandler(filename=str(script))
    return AppHost("/app", Application(handler), logout_url=None, issue_token=str)


async def end(host: AppHost, session: Session) -> None:
    document = session.document
    await host.retire(session)
    for _ in take_apart(document):
        pass


@in_loop
async def test_classes_go_with_their_session(tmp_path: Path, tables: list[frozenset[object]]) -> None:
    """Of every kind; and pages are made while they are there and when they have gone."""
    host = script_host(tmp_path, SCRIPT)
    pages = PageResources("")
    first, second = await host.build("a", Origin(None, {})), await host.build("b", Origin(None, {}))
    for session in (first, second):
        assert len(session.document.roots) == 2
        pages.bundle()
        await end(host, session)
        pages.bundle()
    assert entries() == tables


@pytest.mark.parametrize("failure", ["1 / 0", "raise SystemExit(3)"])
@in_loop
async def test_classes_go_when_their_script_fails_half_way(
    failure: str, tmp_path: Path, tables: list[frozenset[object]]
) -> None:
    """Whether its session is there, empty, or never comes to be."""
    modules = set(sys.modules)
    host = script_host(tmp_path, f"{SCRIPT}\n{failure}\n")
    try:
        session = await host.build("a", Origin(None, {}))
    except AppQuit:
        pass
    else:
        await end(host, session)
    assert entries() == tables
    assert set(sys.modules) - modules <= {"script"}
    PageResources("").bundle()


@in_loop
async def test_a_session_that_never_was_leaves_nothing(tables: list[frozenset[object]]) -> None:
    """What a function app raises is the page's answer, and the modules of its document are not kept."""

    def failing(document: Document) -> None:
        module = ModuleType("bokeh_app_failing")
        document.modules.add(module)
        type("Lost", (Div,), {"__module__": module.__name__})
        raise ZeroDivisionError

    host = AppHost("/app", Application(FunctionHandler(failing)), logout_url=None, issue_token=str)
    with pytest.raises(ZeroDivisionError):
        await host.build("a", Origin(None, {}))
    assert "bokeh_app_failing" not in sys.modules
    assert entries() == tables


@in_loop
async def test_what_a_class_had_pushed_out_comes_back(tmp_path: Path, tables: list[frozenset[object]]) -> None:
    """A class with an implementation of its own has the same name in every session, and perhaps one of Bokeh's."""
    source = """
from bokeh.models.widgets import Slider as Original

class Slider(Original):
    __implementation__ = "export class Slider {}"
"""
    host = script_host(tmp_path, source)
    first, second = await host.build("a", Origin(None, {})), await host.build("b", Origin(None, {}))
    names = [session.document.modules._modules[0].__name__ for session in (first, second)]
    await end(host, second)
    assert HasProps.model_class_reverse_map["Slider"].__module__ == names[0]
    await end(host, first)
    assert HasProps.model_class_reverse_map["Slider"] is Slider
    assert entries() == tables


@pytest.mark.parametrize("there", [True, False])
def test_pages_are_made_though_a_models_package_has_no_file(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of `app_hooks.py`, or one without an `__init__.py`. The model is of use, and stays."""
    if there:
        monkeypatch.setitem(sys.modules, "bokeh_app_of_hooks", ModuleType("bokeh_app_of_hooks"))
    hooked: Any = type("Hooked", (Div,), {"__module__": "bokeh_app_of_hooks"})
    PageResources("").bundle()
    assert HasProps.model_class_reverse_map[hooked.__qualified_model__] is hooked


def test_an_extension_that_comes_when_a_class_goes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of classes is the same then."""
    pages = PageResources("")
    monkeypatch.setitem(sys.modules, "bokeh_app_one", ModuleType("bokeh_app_one"))
    sys.modules["bokeh_app_one"].__file__ = __file__
    type("One", (Div,), {"__module__": "bokeh_app_one"})
    pages.bundle()
    forget_classes("bokeh_app_one")
    extension = type("Two", (Div,), {"__module__": "bokeh.two", "__javascript__": ["https://example.org/two.js"]})
    assert "https://example.org/two.js" in [str(getattr(url, "url", url)) for url in pages.bundle().js_files]
    assert extension in HasProps.model_class_reverse_map.values()


def test_classes_of_modules_that_are_there_stay(tables: list[frozenset[object]]) -> None:
    """However often is looked."""
    with only_packaged_models():
        pass
    forget_classes("no_such_module")
    assert entries() == tables
