"""Model ids: one series per session, the same again for the same session, and random outside any."""

from __future__ import annotations

import asyncio
import threading

import bokeh.document.document
import bokeh.model.model
import bokeh.util.serialization
import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.models import Column
from bokeh.models.widgets import Slider
from bokeh.plotting import figure
from hypothesis import given
from hypothesis import strategies as st
from support.peers import in_loop

from aperture.document import ids
from aperture.document.ids import IdSequence

MODULES = (bokeh.util.serialization, bokeh.model.model, bokeh.document.document)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our ids in the place of Bokeh's, and Bokeh's again afterwards."""
    for module in MODULES:
        monkeypatch.setattr(module, "make_id", module.make_id)
    ids.install()


def fill(document: Document) -> None:
    plot = figure(width=200, height=200)
    plot.line([1, 2], [3, 4])
    document.add_root(Column(children=[Slider(start=0, end=1, value=0), plot]))


def ids_of(seed: str) -> list[tuple[str, str]]:
    document = Document()
    with IdSequence(seed).active():
        Application(FunctionHandler(fill)).initialize_document(document)
    return sorted((model.id, type(model).__name__) for model in document.models)


@pytest.mark.usefixtures("installed")
def test_the_same_app_in_the_same_session_has_the_same_ids() -> None:
    """Wherever it is built again, an id means the same model."""
    assert ids_of("session") == ids_of("session")


@pytest.mark.usefixtures("installed")
def test_two_sessions_share_no_id() -> None:
    """So a page cannot change a model of a session that it does not belong to."""
    one, other = ids_of("session one"), ids_of("session two")
    assert not {model_id for model_id, _ in one} & {model_id for model_id, _ in other}
    assert [kind for _, kind in one] == [kind for _, kind in other]


@given(st.text(), st.text())
def test_prefixes_differ_whenever_sessions_do(one: str, other: str) -> None:
    """For any ids, lone surrogates among them."""
    assert (IdSequence(one).next() == IdSequence(other).next()) == (one == other)


def test_an_id_does_not_tell_the_session() -> None:
    """Session ids are secrets, and model ids are in every page's source."""
    assert "secret" not in IdSequence("secret").next()


def test_ids_count_on() -> None:
    """From the number at which Bokeh begins."""
    sequence = IdSequence("s")
    first = sequence.next()
    assert first.endswith("-1001")
    assert sequence.next() == first.replace("-1001", "-1002")


@pytest.mark.usefixtures("installed")
def test_each_process_has_a_prefix_of_its_own_outside_sessions() -> None:
    """What two workers make at import must not collide either."""
    before = Slider(start=0, end=1, value=0).id
    ids.install()
    after = Slider(start=0, end=1, value=0).id
    assert before.partition("-")[0] != after.partition("-")[0]


@pytest.mark.usefixtures("installed")
def test_sessions_nest_and_end() -> None:
    """The innermost counts, and the outer ones go on where they were."""
    outer, inner = IdSequence("outer"), IdSequence("inner")
    outside = ids.make_id().partition("-")[0]
    with outer.active():
        first = ids.make_id()
        with inner.active():
            assert ids.make_id() == IdSequence("inner").next()
        assert ids.make_id() == first.replace("-1001", "-1002")
    assert ids.make_id().startswith(outside)


@pytest.mark.usefixtures("installed")
@in_loop
async def test_tasks_and_threads_started_in_a_session_belong_to_it() -> None:
    """Tasks, `asyncio.to_thread` and callbacks on the loop inherit; a thread of the app's own does not."""

    async def made() -> str:
        await asyncio.sleep(0)
        return ids.make_id()

    prefix = IdSequence("s").next().partition("-")[0]
    with IdSequence("s").active():
        task = asyncio.create_task(made())
        in_thread = asyncio.create_task(asyncio.to_thread(ids.make_id))
        soon: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: soon.set_result(ids.make_id()))
        own: list[str] = []
        thread = threading.Thread(target=lambda: own.append(ids.make_id()))
        thread.start()
        thread.join()
    assert {name.partition("-")[0] for name in (await task, await in_thread, await soon)} == {prefix}
    assert not own[0].startswith(prefix)
    assert not ids.make_id().startswith(prefix)
