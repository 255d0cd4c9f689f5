"""The client against stock Bokeh and against workers of ours: many sessions at once, lost connections, both faces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import bokeh
import pytest
from bokeh.document import Document
from bokeh.models.widgets import Div, Slider
from support.node import BOTH, EXAMPLES, Node, StockNode, kind_name
from support.patience import run, seconds
from support.peers import state_of
from tornado.ioloop import IOLoop

from aperture.client import AsyncSession, ClientSession, connect, pull_session, push_session
from aperture.errors import RequestFailed, ServerGone, SessionClosed

CLIENTS = 100
CHANGES = 100
AT_ONCE = 10
VERSIONS = {"bokeh": bokeh.__version__, "server": bokeh.__version__}
"""Sessions that are opened at a time: each runs the app's code."""


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def served(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """Sliders, an app that raises and one that counts rows: one process of stock Bokeh, four workers of ours."""
    options = ["--num-procs", "4"] if request.param is Node else []
    with request.param(EXAMPLES / "apps" / "sliders.py", "raising.py", "rows.py", options=options) as node:
        yield node


def named(session: AsyncSession | ClientSession, name: str) -> Any:
    model = session.document.get_model_by_name(name)
    assert model is not None
    return model


def test_a_hundred_sessions_on_one_loop_beside_a_blocking_one(served: StockNode) -> None:
    """All of them are open at once, and stream 100 rows each: a second client finds all rows in their order, once."""
    url = served.app_url("/rows")
    rows = list(range(CHANGES))

    def rows_of(session: AsyncSession | ClientSession) -> list[int]:
        return list(named(session, "holder").tags[0].data["x"])

    def blocking() -> None:
        with pull_session(url=url, timeout=seconds(60), connect_timeout=seconds(60)) as session:
            for number in rows:
                named(session, "holder").tags[0].stream({"x": [number]})
            session.force_roundtrip()
            assert named(session, "count").text == str(CHANGES)
            with pull_session(session.id, url=url, timeout=seconds(60), connect_timeout=seconds(60)) as again:
                assert rows_of(again) == rows

    async def opened(session_id: str | None = None) -> AsyncSession:
        patience: dict[str, Any] = {"timeout": seconds(60), "connect_timeout": seconds(60)}
        return await connect(url, session_id=session_id, reconnect=False, **patience)

    async def one(gate: asyncio.Semaphore, all_open: asyncio.Barrier) -> None:
        async with gate:
            session = await opened()
        async with session:
            await all_open.wait()
            for number in rows:
                named(session, "holder").tags[0].stream({"x": [number]})
                if number % 7 == 0:
                    await asyncio.sleep(0)
            await session.force_roundtrip()
            assert named(session, "count").text == str(CHANGES)
            async with gate, await opened(session.id) as again:
                assert rows_of(again) == rows

    async def scenario() -> None:
        gate, all_open = asyncio.Semaphore(AT_ONCE), asyncio.Barrier(CLIENTS + 1)
        async with asyncio.TaskGroup() as sessions:
            for _ in range(CLIENTS):
                sessions.create_task(one(gate, all_open))
            await all_open.wait()
            await asyncio.to_thread(blocking)

    run(scenario(), 240)


def test_changes_reach_another_client_in_order(served: StockNode) -> None:
    """Another client of the session sees them in their order, none twice, and the last; a server may join the rest."""

    async def scenario() -> None:
        url = served.app_url("/sliders")
        async with connect(url) as writer, connect(url, session_id=writer.id) as reader:
            heard: list[float] = []
            named(reader, "phase").on_change("value", lambda attr, old, new: heard.append(new))
            values = [number / 100 for number in range(1, CHANGES + 1)]
            for number, value in enumerate(values):
                named(writer, "phase").value = value
                if number % 10 == 0:
                    await writer.force_roundtrip()
            await writer.force_roundtrip()
            await reader.force_roundtrip()
            assert heard[-1] == values[-1]
            assert heard == sorted(set(heard))

    run(scenario())


def test_both_faces_have_the_members_of_bokehs_class(served: StockNode) -> None:
    """What programs for `bokeh.client` use, with the values that they have there."""
    with pull_session(url=served.app_url("/sliders"), io_loop=IOLoop(make_current=False)) as session:
        assert session.connected
        assert (session.error_reason, session.error_code, session.error_detail) == (None, 0, "")
        assert session.url == served.ws_url("/sliders")
        assert session.token != session.id
        document = session.document
        session.pull()
        assert session.document is document
        assert session.request_server_info()["version_info"] == VERSIONS
        session.check_connection_errors()
    assert not session.connected
    with pytest.raises(SessionClosed):
        session.force_roundtrip()


def test_a_pushed_document_is_the_sessions(served: StockNode) -> None:
    """Ids of models that are made here are no other's, so the server's later ones do not meet them."""
    document = Document()
    document.add_root(Div(name="pushed", text="one"))
    with push_session(document, url=served.app_url("/sliders")) as session:
        assert session.document is document
        document.roots[0].text = "two"  # type: ignore[attr-defined]
        document.add_root(Slider(name="new", start=0, end=1, value=0))
        session.force_roundtrip()
        with pull_session(session.id, url=served.app_url("/sliders")) as other:
            assert state_of(other.document) == state_of(document)
        with pytest.raises(ValueError, match="another document"):
            session.push(Document())


def test_timed_callbacks_run_on_the_loop_and_in_blocking_calls(served: StockNode) -> None:
    """In the calling thread, and with what they change sent to the server."""

    async def scenario() -> None:
        async with connect(served.app_url("/sliders")) as session:
            ticked = asyncio.Event()

            async def tick() -> None:
                named(session, "title").value = "ticked"
                ticked.set()

            cast("Any", session.document).add_timeout_callback(
                tick, 10
            )  # Bokeh takes coroutine functions, its types do not
            await asyncio.wait_for(ticked.wait(), seconds(10))
            await session.force_roundtrip()
            assert named(session, "plot").title.text == "ticked"

    run(scenario())
    with pull_session(url=served.app_url("/sliders")) as session:
        session.document.add_next_tick_callback(lambda: named(session, "title").update(value="next"))
        session.force_roundtrip()
        session.force_roundtrip()
        assert named(session, "plot").title.text == "next"


def test_a_failing_app_is_told_to_whoever_asks(served: StockNode) -> None:
    """The server answers with an error; the session goes on."""

    async def scenario() -> None:
        async with connect(served.app_url("/raising")) as session:
            named(session, "slider").value = 5
            with pytest.raises(RequestFailed):
                await session.force_roundtrip()
            await session.force_roundtrip()

    run(scenario())


# A server that goes and comes back on the same port


async def killed(node: StockNode) -> None:
    """As by a power cut: all its processes at once."""
    for pid in node.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(node.wait)


@pytest.mark.parametrize("kind", BOTH, ids=kind_name)
def test_a_client_comes_back_to_a_restarted_server(kind: type[StockNode]) -> None:
    """Its document is the server's then, with what was changed meanwhile; without reconnecting there is one error."""

    async def scenario() -> None:
        with kind(EXAMPLES / "apps" / "sliders.py") as first:
            url = first.app_url("/sliders")
            options = ["--port", str(first.port)]
            async with connect(url, reconnect=[0.1] * 200, timeout=seconds(30)) as session:
                lone = await connect(url, reconnect=False)
                named(session, "title").value = "before"
                await session.force_roundtrip()
                document = session.document
                await killed(first)
                with pytest.raises(ServerGone) as gone:
                    await lone.wait_closed()
                with pytest.raises(ServerGone) as again:
                    await lone.force_roundtrip()
                assert gone.value is again.value
                await lone.close()
                while session.connected:
                    await asyncio.sleep(0)
                named(session, "title").value = "meanwhile"
                with kind(EXAMPLES / "apps" / "sliders.py", options=options):
                    await session.force_roundtrip()
                    assert session.document is document
                    assert named(session, "title").value == "meanwhile"
                    assert named(session, "plot").title.text == "meanwhile"
                    async with connect(url, session_id=session.id) as other:
                        assert state_of(other.document) == state_of(session.document)
                    await session.close()

    run(scenario(), 120)


def test_a_blocking_session_comes_back_when_it_is_told_to() -> None:
    """At the next call; without it that call raises."""
    with Node(EXAMPLES / "apps" / "sliders.py") as first:
        url, options = first.app_url("/sliders"), ["--port", str(first.port)]
        session = pull_session(url=url, reconnect=[0.1] * 200)
        lone = pull_session(url=url)
        run(killed(first))
        with pytest.raises(ServerGone):
            lone.force_roundtrip()
        lone.close()
        with Node(EXAMPLES / "apps" / "sliders.py", options=options):
            slider = named(session, "phase")
            slider.value = 2.5
            session.force_roundtrip()
            assert named(session, "phase") is slider
            with pull_session(session.id, url=url) as other:
                assert named(other, "phase").value == 2.5
            session.close()
