"""What becomes of a client's session, and of what was changed in it, when connections are lost or refused."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Div, Slider
from support.aside import BOTH, ServerAside, server_name
from support.node import Node
from support.patience import run, seconds, wait_until
from support.rogue import ACK, GOODBYE, answer, document_of, requests, rogue_server, websocket

from aperture import Server
from aperture.client import AsyncSession, ClientSession, backlog, connect, pull_session, push_session
from aperture.client.incoming import Ended
from aperture.client.sync_protocol import Exchange
from aperture.errors import (
    ClientError,
    MessageTooLarge,
    NotLocked,
    RequestFailed,
    ServerGone,
    ServerUnreachable,
)

CHANGES = 100

SLIDER = '{"type":"object","name":"Slider","id":"s","attributes":{"name":"slider","start":0,"end":9,"value":1}}'


def fill(doc: Document) -> None:
    """A slider, and how it was moved."""
    slider = Slider(name="slider", start=0, end=1000, value=0)
    moves = Div(name="moves", text="")
    slider.on_change("value", lambda attr, old, new: moves.update(text=f"{moves.text} {new}".strip()))
    doc.add_root(slider)
    doc.add_root(moves)


@pytest.fixture(scope="module", params=BOTH, ids=server_name)
def served(request: pytest.FixtureRequest) -> Iterator[ServerAside]:
    """One process of each kind."""
    with ServerAside(request.param, {"/app": fill}) as server:
        yield server


def named(session: AsyncSession | ClientSession, name: str) -> Any:
    model = session.document.get_model_by_name(name)
    assert model is not None
    return model


def moves_at(served: ServerAside, session_id: str) -> list[str]:
    """What the session's app has seen."""

    def look() -> list[str]:
        moves = served.server.get_session("/app", session_id).document.get_model_by_name("moves")
        return str(moves.text).split()

    return served.call(look)


MOVES = [str(number) for number in range(1, CHANGES + 1)]


async def move(session: AsyncSession) -> None:
    for number in range(1, CHANGES + 1):
        named(session, "slider").value = number
        await asyncio.sleep(0)


# Closing


@pytest.mark.parametrize("way", ["close", "exception", "batch"])
def test_what_was_changed_is_sent_before_the_end(
    served: ServerAside, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though much waits: by `close`, by leaving the block with an exception, and out of a batch."""
    monkeypatch.setattr(backlog, "MAX_UNANSWERED", 1)

    async def scenario() -> str:
        session = await connect(f"{served.url}/app")
        if way == "exception":
            with pytest.raises(KeyError):
                async with session:
                    await move(session)
                    raise KeyError
        elif way == "batch":
            with session.batch():
                await move(session)
                await session.close()
        else:
            await move(session)
            await session.close()
        return session.id

    session_id = run(scenario())
    wait_until(lambda: moves_at(served, session_id) == MOVES, why="changes were lost")


def test_what_cannot_be_sent_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """By both faces, when the server has not taken it within `timeout`."""
    monkeypatch.setattr(backlog, "MAX_UNANSWERED", 1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await websocket(reader, writer)
        writer.write(ACK)
        async for msgtype, request in requests(reader):
            if msgtype == "PULL-DOC-REQ":
                writer.write(answer("PULL-DOC-REPLY", request, document_of(SLIDER)))
        writer.write(GOODBYE)

    def blocking(url: str) -> None:
        with pull_session(url=url, timeout=0.2) as session:
            named(session, "slider").value = 2
            named(session, "slider").value = 3

    async def scenario() -> None:
        async with rogue_server(silent) as url:
            session = await connect(url, timeout=0.2, reconnect=False)
            for number in (2, 3):
                named(session, "slider").value = number
                await asyncio.sleep(0)
            await session.close()
            await asyncio.to_thread(blocking, url)

    run(scenario())
    assert caplog.text.count("the last 1 changes") == 2


def test_a_clean_end_is_no_lost_connection(served: ServerAside, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing tries to come back, and nothing says so."""
    caplog.set_level(logging.INFO, "aperture.client")

    async def scenario() -> None:
        for _ in range(3):
            async with connect(f"{served.url}/app"):
                pass

    run(scenario())
    assert "lost" not in caplog.text


# Changes that failed


def failing(doc: Document) -> None:
    slider = Slider(name="slider", start=0, end=1000, value=0)
    slider.on_change("value", cast("Any", lambda attr, old, new: 1 / 0))
    doc.add_root(slider)


def test_a_failed_change_is_told_at_the_end_of_the_block(caplog: pytest.LogCaptureFixture) -> None:
    """If it was not asked for before; and it is in the log in any case."""

    async def scenario(url: str) -> None:
        with pytest.raises(RequestFailed):
            async with connect(url) as session:
                named(session, "slider").value = 5

    with ServerAside(Server, {"/app": failing}) as server:
        run(scenario(f"{server.url}/app"))
    assert "a change that was made here has failed" in caplog.text


def test_a_change_above_the_servers_limit_is_named_and_not_repeated() -> None:
    """By both faces; the session goes on without it."""

    def blocking(url: str) -> None:
        with pull_session(url=url, reconnect=[0]) as session:
            named(session, "moves").text = "a" * 200_000
            with pytest.raises(MessageTooLarge):
                session.force_roundtrip()
            session.force_roundtrip()
            assert named(session, "moves").text == ""

    async def scenario(url: str) -> None:
        async with connect(url, reconnect=[0]) as session:
            named(session, "moves").text = "a" * 200_000
            with pytest.raises(MessageTooLarge):
                await session.force_roundtrip()
            await session.force_roundtrip()
            assert named(session, "moves").text == ""

    with ServerAside(Server, {"/app": fill}, websocket_max_message_size=100_000) as server:
        run(scenario(f"{server.url}/app"))
        blocking(f"{server.url}/app")


def test_a_change_that_ends_its_worker_ends_two_at_most() -> None:
    """It is repeated once; then the session goes on, and the next caller gets the error."""

    async def scenario(node: Node) -> None:
        async with connect(node.app_url("/deadly"), timeout=seconds(30)) as session:
            named(session, "slider").value = 13
            with pytest.raises(ServerGone, match="twice"):
                await session.force_roundtrip()
            named(session, "slider").value = 14
            await session.force_roundtrip()

    with Node("deadly.py", options=["--num-procs", "2"]) as node:
        run(scenario(node), 120)
        assert node.log().count("ended with SIGKILL") == 2


def test_a_change_on_another_thread_is_undone(served: ServerAside) -> None:
    """It raises there, and the document here does not stay apart from the server's."""

    async def scenario() -> None:
        async with connect(f"{served.url}/app") as session:

            def change() -> None:
                with pytest.raises(NotLocked):
                    named(session, "slider").value = 77

            await asyncio.to_thread(change)
            while named(session, "slider").value == 77:
                await session.force_roundtrip()
            assert named(session, "slider").value == 0

    run(scenario())


# Lost connections

Act = Callable[[asyncio.StreamWriter, str, str], None]


def says_all(writer: asyncio.StreamWriter, msgtype: str, request: str) -> None:
    answers = {"PULL-DOC-REQ": ("PULL-DOC-REPLY", document_of(SLIDER)), "SERVER-INFO-REQ": ("SERVER-INFO-REPLY", "{}")}
    writer.write(answer(answers.get(msgtype, ("OK", "{}"))[0], request, answers.get(msgtype, ("", "{}"))[1]))


def drops(writer: asyncio.StreamWriter, msgtype: str, request: str) -> None:
    writer.transport.abort()


def drops_after_the_document(writer: asyncio.StreamWriter, msgtype: str, request: str) -> None:
    (says_all if msgtype == "PULL-DOC-REQ" else drops)(writer, msgtype, request)


def refuses(writer: asyncio.StreamWriter, msgtype: str, request: str) -> None:
    writer.write(answer("ERROR", request, '{"text":"no","traceback":null}'))


@asynccontextmanager
async def scripted(*acts: Act) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that does to each connection what the script says, to further ones the last of it; and counts them."""
    count = [0]

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        act = acts[min(count[0], len(acts) - 1)]
        count[0] += 1
        await websocket(reader, writer)
        writer.write(ACK)
        async for msgtype, request in requests(reader):
            act(writer, msgtype, request)
        writer.write(GOODBYE)

    async with rogue_server(converse) as url:
        yield url, count


def test_a_document_that_cannot_be_had_again_is_the_end() -> None:
    """The server answers with errors: each attempt has its turn, and then those who wait get the error."""

    async def scenario() -> None:
        async with scripted(drops_after_the_document, refuses) as (url, count):
            session = await connect(url, reconnect=[0, 0, 0])
            with pytest.raises(ServerGone):
                await session.force_roundtrip()
            with pytest.raises(ServerGone) as gone:
                await session.wait_closed()
            assert isinstance(gone.value.__cause__, RequestFailed)
            assert count == [4]
            await session.close()

    run(scenario())


def test_connections_that_are_lost_at_once_spend_the_attempts() -> None:
    """However often the documents were equal in between: a server that drops everybody is not asked for ever."""

    async def scenario() -> None:
        async with scripted(drops_after_the_document) as (url, count):
            async with connect(url, reconnect=[0, 0, 0]) as session:
                with pytest.raises(ServerGone):
                    while True:
                        await session.force_roundtrip()
            assert count == [4]

    run(scenario())


def test_an_attempt_that_is_lost_is_followed_by_the_next() -> None:
    """Also while the documents are being made equal, and by both faces."""

    def blocking(url: str) -> None:
        with pull_session(url=url, reconnect=[0, 0, 0]) as session:
            named(session, "slider").value = 2
            session.force_roundtrip()
            assert named(session, "slider").value == 2

    async def scenario() -> None:
        for _ in range(2):
            async with scripted(drops_after_the_document, drops, refuses, says_all) as (url, count):
                async with connect(url, reconnect=[0, 0, 0]) as session:
                    named(session, "slider").value = 2
                    await session.force_roundtrip()
                    assert named(session, "slider").value == 2
                assert count == [4]
            async with scripted(drops_after_the_document, drops, refuses, says_all) as (url, count):
                await asyncio.to_thread(blocking, url)
                assert count == [4]

    run(scenario())


def test_a_blocking_call_makes_each_attempt_once() -> None:
    """And then says that the server is gone."""

    def blocking(url: str) -> None:
        with pull_session(url=url, reconnect=[0, 0, 0]) as session, pytest.raises(ServerGone):
            session.force_roundtrip()

    async def scenario() -> None:
        async with scripted(drops_after_the_document) as (url, count):
            await asyncio.to_thread(blocking, url)
            assert count == [4]

    run(scenario())


def test_the_end_of_an_earlier_connection_is_not_that_of_this_one() -> None:
    """Its reason may come late, when the next one is there already."""

    def blocking(url: str) -> None:
        with pull_session(url=url) as session:
            session._pump.inbox.put(Ended(object(), ServerGone("late")))
            session.force_roundtrip()
            assert session.connected

    async def scenario() -> None:
        async with scripted(says_all) as (url, _):
            await asyncio.to_thread(blocking, url)

    run(scenario())


def test_a_server_that_stays_away_is_gone() -> None:
    """Not merely unreachable: there was a session."""

    async def scenario() -> None:
        with ExitStack() as server:
            session = await connect(
                f"{server.enter_context(ServerAside(Server, {'/app': fill})).url}/app", reconnect=[0]
            )
            await asyncio.to_thread(server.close)
        with pytest.raises(ServerGone) as gone:
            await session.wait_closed()
        assert isinstance(gone.value.__cause__, ServerUnreachable)
        await session.close()

    run(scenario())


def test_an_error_of_this_side_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call waits for a reader that has ended."""

    async def scenario() -> None:
        async with scripted(says_all) as (url, _):
            session = await connect(url)

            def receive(self: Exchange, message: object, request: str) -> None:
                raise ZeroDivisionError

            with monkeypatch.context() as broken:
                broken.setattr(Exchange, "_receive_answer", receive)
                with pytest.raises(ClientError, match="ZeroDivisionError"):
                    await session.force_roundtrip()
            with pytest.raises(ClientError, match="ZeroDivisionError"):
                await session.wait_closed()
            await session.close()

    run(scenario())


def test_a_push_that_is_lost_on_its_way_is_made_again() -> None:
    """By both faces: the document stays the caller's."""

    def pushed() -> Document:
        document = Document()
        document.add_root(Div(name="mine"))
        return document

    def names(document: Document) -> list[str | None]:
        return [root.name for root in document.roots]

    def blocking(url: str) -> None:
        document = pushed()
        with push_session(document, url=url, reconnect=[0]):
            assert names(document) == ["mine"]

    async def scenario() -> None:
        async with scripted(drops, says_all) as (url, _):
            document = pushed()
            async with connect(url, document=document, reconnect=[0]):
                assert names(document) == ["mine"]
        async with scripted(drops, says_all) as (url, _):
            await asyncio.to_thread(blocking, url)

    run(scenario())


# Connections that are refused


def test_a_cancelled_connect_leaves_no_connection() -> None:
    """Though the server completes the handshake afterwards."""

    async def scenario() -> None:
        asked, cancelled = asyncio.Event(), asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await cancelled.wait()
            await websocket(reader, writer)
            writer.write(ACK)

        async with rogue_server(slow) as url:  # which waits for every client to hang up
            opening = asyncio.ensure_future(_open(url))
            await asked.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            cancelled.set()

    run(scenario())


async def _open(url: str) -> AsyncSession:
    return await connect(url, connect_timeout=seconds(60))


def test_a_forgotten_session_hangs_up() -> None:
    """With a warning, as files do; what still has its document has not forgotten it."""

    def connections(server: ServerAside) -> int:
        found: int = server.call(lambda: sum(one.connection_count for one in server.server.get_sessions("/app")))
        return found

    with ServerAside(Server, {"/app": fill}) as server:
        documents = [pull_session(url=f"{server.url}/app").document]
        gc.collect()
        assert connections(server) == 1
        documents.clear()
        with pytest.warns(ResourceWarning, match="never closed"):
            gc.collect()
        wait_until(lambda: connections(server) == 0)


# Large documents


def arrays(count: int) -> Callable[[Document], None]:
    def fill_with_arrays(doc: Document) -> None:
        doc.add_root(Column(name="holder", tags=[ColumnDataSource({f"c{n}": np.zeros(10_000) for n in range(count)})]))

    return fill_with_arrays


def test_the_limit_of_a_message_is_of_each_of_its_frames() -> None:
    """As with Bokeh's client: a document of many arrays is larger than any of them. But not without an end."""
    with ServerAside(Server, {"/some": arrays(4), "/many": arrays(20)}) as server:
        with pull_session(url=f"{server.url}/some", max_message_size=90_000) as session:
            assert len(named(session, "holder").tags[0].data) == 4
        with pytest.raises(MessageTooLarge):
            pull_session(url=f"{server.url}/many", max_message_size=90_000)
