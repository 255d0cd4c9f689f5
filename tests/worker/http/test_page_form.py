"""Pages are what Bokeh renders, though most of their text is rendered once."""

from __future__ import annotations

import random
import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.embed.elements import html_page_for_render_items
from bokeh.embed.util import RenderItem
from bokeh.models.widgets import Div
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import Template

from aperture.worker.http.render import PAGE, render
from aperture.worker.http.resources import PageResources
from aperture.worker.session import framework
from aperture.worker.session.framework import BOKEH
from aperture.worker.session.session import Session

TOKEN = "eyJzZXNzaW9uX2lkIjogIkEtXyJ9.c2lnbmF0dXJl-_"

RESOURCES = PageResources("/prefix")


@pytest.fixture
def same_ids(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begins the sequence of ids that pages make up anew."""
    drawn = random.Random()
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=drawn.getrandbits(128), version=4))
    return lambda: drawn.seed(1)


def document_of(title: str | None, names: list[str | None], ids: list[str] | None = None) -> Document:
    document = Document() if title is None else Document(title=title)
    for number, name in enumerate(names):
        root = Div(name=name, tags=["tag"])
        if ids is not None:
            cast("Any", root)._id = ID(ids[number])
        document.add_root(root)
    return document


def ours(document: Document, token: str = TOKEN) -> str:
    session = cast(Session, SimpleNamespace(document=document, token=token, framework=BOKEH))
    return cast(str, render(RESOURCES, session, PAGE, {}))


def bokehs(document: Document, token: str = TOKEN) -> str:
    item = RenderItem(token=token, roots=document.roots, use_for_title=True)
    variables = document.template_variables or {}
    bundle = RESOURCES.bundle()
    return html_page_for_render_items(bundle, {}, [item], document.title, document.template, variables)


@pytest.mark.parametrize("title", [None, "", "Plain", "<b>&\"'100 %s %(token)s {{ title }}", "Größe 📈", "\x00\n\\n"])
@pytest.mark.parametrize("roots", [0, 1, 2, 7])
def test_a_page_is_what_bokeh_renders(title: str | None, roots: int, same_ids: Any) -> None:
    """For any title and number of roots, whatever was rendered before."""
    document = document_of(title, [f"<name {number}>" if number % 2 else None for number in range(roots)])
    ours(document)  # the first of its kind takes ids itself
    same_ids()
    page = ours(document)
    same_ids()
    assert page == bokehs(document)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("%")
def test_any_title_is_written_as_bokeh_does(title: str) -> None:
    """Escaped in the same way."""
    document = document_of(title, [])
    assert _head(ours(document)) == _head(bokehs(document))


@pytest.mark.parametrize("model_id", ["", "<b>", 'a"b', "a b", "ä", "%s", "\\"])
def test_ids_that_an_app_has_chosen(model_id: str, same_ids: Any) -> None:
    """They may be anything, and are left to Bokeh."""
    document = document_of("T", [None, None], [model_id, "p1001"])
    same_ids()
    page = ours(document)
    same_ids()
    assert page == bokehs(document)


def test_templates_of_an_app_are_rendered_each_time() -> None:
    """They may show what no other page has."""
    document = document_of("T", [None])
    document.template = Template("{{ title }} {{ mine }}")
    document.template_variables["mine"] = 1
    assert ours(document) == "T 1"
    document.template_variables["mine"] = 2
    assert ours(document) == "T 2"


def test_bokehs_template_shows_no_variables_of_an_app(same_ids: Any) -> None:
    """Also of the names that it shows."""
    document = document_of("T", [None])
    document.template_variables.update(title="mine", bokeh_css="mine", docs=[], mine=1)
    same_ids()
    page = ours(document)
    same_ids()
    assert page == bokehs(document)


def test_a_title_with_half_a_pair_can_be_sent() -> None:
    """UTF-8 cannot say it."""
    assert "<title>a\ufffdb</title>" in ours(document_of("a\ud83db", []))


def test_bokeh_renders_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next page of as many roots only fills in what is its own."""
    ours(document_of("T", [None]))
    monkeypatch.setattr(framework, "html_page_for_render_items", None)
    monkeypatch.setattr("aperture.worker.http.page_form.html_page_for_render_items", None)
    first, second = ours(document_of("T", [None])), ours(document_of("U", [None]))
    assert first != second
    assert "<title>U</title>" in second


def _head(page: str) -> str:
    return page.partition("<script>")[0]
