"""A blocking client and a server on one loop that does not run, as with `bokeh.client`: the client's calls run it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.models.widgets import Div, Slider
from support.aside import BOTH, server_name
from support.patience import seconds
from tornado.ioloop import IOLoop

from aperture.client import ClientSession, pull_session, push_session

KIND = pytest.mark.parametrize("kind", BOTH, ids=server_name)


def fill(document: Document) -> None:
    """An app whose slider says in a Div where it stands."""
    shown = Div(text="0", name="shown")
    slider = Slider(start=0, end=100, value=0, name="slider")
    slider.on_change("value", lambda attr, old, new: shown.update(text=str(new)))
    document.add_root(slider)
    document.add_root(shown)


@contextmanager
def resting(kind: type) -> Iterator[Any]:
    """A server that has been started, on a loop that has not."""
    inner = asyncio.new_event_loop()
    asyncio.set_event_loop(inner)  # stock accepts connections on the current loop, whatever it is given
    loop = IOLoop.current()
    server = kind({"/app": fill}, io_loop=loop, port=0)
    server.start()
    try:
        yield server
    finally:
        server.unlisten()
        server.stop()
        loop.close(all_fds=True)
        asyncio.set_event_loop(None)


def named(session: ClientSession, name: str) -> Any:
    return session.document.get_model_by_name(name)


def url_of(server: Any) -> str:
    return f"http://localhost:{server.port}/app"


@KIND
def test_calls_run_the_loop_while_they_wait(kind: type) -> None:
    """Connecting, pulling, changing in both directions, and the end."""
    with resting(kind) as server:
        patience: dict[str, Any] = {"timeout": seconds(30), "connect_timeout": seconds(30)}
        with pull_session(url=url_of(server), io_loop=server.io_loop, **patience) as session:
            theirs = server.get_session("/app", session.id)
            named(session, "slider").value = 7
            session.force_roundtrip()
            session.force_roundtrip()
            assert theirs.document.get_model_by_name("shown").text == "7"
            assert named(session, "shown").text == "7"
            theirs.document.add_next_tick_callback(lambda: setattr(theirs.document, "title", "from the server"))
            while session.document.title != "from the server":
                session.force_roundtrip()
            assert theirs.connection_count == 1
        assert theirs.connection_count == 0


@KIND
def test_asyncios_loop_will_do(kind: type) -> None:
    """A program that uses no Tornado has no IOLoop to give."""
    with resting(kind) as server:
        loop = server.io_loop.asyncio_loop
        assert isinstance(loop, asyncio.AbstractEventLoop)
        with push_session(Document(), url=url_of(server), io_loop=loop, timeout=seconds(30)) as session:
            session.document.add_root(Div(text="pushed"))
            session.force_roundtrip()
            assert len(server.get_session("/app", session.id).document.roots) == 1


@KIND
def test_a_callbacks_coroutine_may_close_the_session(kind: type) -> None:
    """It runs on the loop, where waiting for the server's goodbye would keep the server from saying it."""
    with resting(kind) as server:
        session = pull_session(url=url_of(server), io_loop=server.io_loop, timeout=seconds(30))
        theirs = server.get_session("/app", session.id)
        steps: list[Any] = []

        async def leave() -> None:
            steps.append(asyncio.get_running_loop() is server.io_loop.asyncio_loop)
            named(session, "slider").value = 3
            await asyncio.sleep(0)
            session.close()
            steps.append(session.connected)

        document: Any = session.document  # Bokeh takes coroutine functions, its types do not
        document.add_next_tick_callback(leave)
        session._loop_until_closed()
        assert steps == [True, False]
        while theirs.connection_count:
            server.io_loop.run_sync(lambda: asyncio.sleep(0))
        assert theirs.document.get_model_by_name("slider").value == 3


@KIND
def test_callbacks_wait_until_the_document_has_been_pushed(kind: type) -> None:
    """They may use the session, which the program does not have before `push_session` returns."""
    with resting(kind) as server:
        document = Document()
        seen: list[int] = []
        sessions: list[object] = []
        document.add_next_tick_callback(lambda: seen.append(len(sessions)))
        document.add_timeout_callback(lambda: seen.append(len(sessions)), 1)
        document.add_periodic_callback(lambda: seen.append(len(sessions)), 1)
        with push_session(document, url=url_of(server), io_loop=server.io_loop, timeout=seconds(30)) as session:
            assert seen == []
            sessions.append(session)
            while len(seen) < 4:
                session.force_roundtrip()
        assert set(seen) == {1}


def test_a_loop_that_runs_is_left_alone() -> None:
    """In another thread, or in this one: the connection does not need it."""
    with resting(BOTH[1]) as server:

        async def ask() -> bool:
            opening = asyncio.to_thread(pull_session, url=url_of(server), io_loop=server.io_loop, timeout=seconds(30))
            session: ClientSession = await opening
            await asyncio.to_thread(session.force_roundtrip)
            await asyncio.to_thread(session.close)
            return session.document.get_model_by_name("shown") is not None

        assert server.io_loop.asyncio_loop.run_until_complete(ask())
