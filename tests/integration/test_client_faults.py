"""Whatever is at the other end, a client says what is wrong, in time: real servers that refuse, and rogues."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.node import BOTH, Node, StockNode, kind_name
from support.patience import run, seconds
from support.rogue import ACK, Conversation, answer, document_of, requests, rogue_server, text_frame, websocket

from aperture.client import ClientSession, connect, pull_session
from aperture.errors import (
    BadAddress,
    ClientError,
    LoopBlocked,
    MessageTooLarge,
    NoSuchApp,
    NotAServer,
    NotLoggedIn,
    OriginRefused,
    Refused,
    ServerGarbled,
    ServerGone,
    ServerSilent,
    ServerUnreachable,
    TokenRefused,
)

KEY = "the key of the test"
SHORT = 0.5
"""Seconds that a client waits for a server that says nothing: all of it is spent."""

STEPS = 3
"""For which a client waits so long each: the websocket, the first message, the document."""

MARGIN = 5
"""Seconds that all else may take on a machine of our own; below the timeouts that hold without others being given."""


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def signed(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """A node whose sessions are signed."""
    with request.param("context.py", options=["--session-ids", "signed"], env={"BOKEH_SECRET_KEY": KEY}) as node:
        yield node


async def opened(url: str, **more: Any) -> None:
    async with connect(url, reconnect=False, **more):
        raise AssertionError("there was a session to be had")


def refusal(url: str, **more: Any) -> ClientError:
    """What opening a session there raises, asynchronously and blocking: the same."""
    with pytest.raises(ClientError) as found:
        run(opened(url, **more))
    with pytest.raises(ClientError) as blocking:
        pull_session(url=url, **more)
    assert type(found.value) is type(blocking.value)
    return found.value


def test_a_path_without_an_app(signed: StockNode) -> None:
    """The server is right and the path is wrong; the address is in the text."""
    problem = refusal(signed.app_url("/nothing-here"), secret_key=KEY)
    assert isinstance(problem, NoSuchApp)
    assert isinstance(problem, OSError)
    assert "/nothing-here/ws" in str(problem)


def test_a_wrongly_signed_token(signed: StockNode) -> None:
    """Stock Bokeh only hangs up; either way the text names the key."""
    for key in ("another", None):
        problem = refusal(signed.app_url("/context"), secret_key=key)
        assert type(problem) is TokenRefused
        assert "BOKEH_SECRET_KEY" in str(problem)


def test_the_right_key_opens_a_session(signed: StockNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, or in the environment at the time of the call."""
    with pull_session(url=signed.app_url("/context"), secret_key=KEY) as session:
        assert session.document.roots
    monkeypatch.setenv("BOKEH_SECRET_KEY", KEY)
    with pull_session(url=signed.app_url("/context")) as session:
        assert session.connected


def test_a_refused_origin(signed: StockNode) -> None:
    """Of a header that the caller gave; stock Bokeh's answer does not say that it is the origin."""
    problem = refusal(signed.app_url("/context"), secret_key=KEY, headers={"Origin": "http://elsewhere.example"})
    assert type(problem) is (OriginRefused if isinstance(signed, Node) else Refused)
    assert "origin" in str(problem).lower()


@pytest.mark.parametrize("url", ["ws://localhost:5006/app", "localhost:5006", "http://h:port/app"])
def test_an_address_that_is_none(url: str) -> None:
    """Said before anything is tried."""
    assert isinstance(refusal(url), BadAddress)


def test_a_port_where_nobody_listens() -> None:
    """And a host that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    problem = refusal(f"http://127.0.0.1:{port}/app")
    assert isinstance(problem, ServerUnreachable)
    assert "running" in str(problem)


async def _nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read, and say nothing."""


def _says(*frames: bytes) -> Conversation:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await websocket(reader, writer)
        for frame in frames:
            writer.write(frame)

    return converse


def _answers(text: bytes) -> Conversation:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        writer.close()

    return converse


def _message(msgtype: str, content: str = "{}") -> bytes:
    return text_frame(f'{{"msgid":"2","msgtype":"{msgtype}"}}') + text_frame("{}") + text_frame(content)


def _to_the_pull(content: str) -> Conversation:
    """Acknowledge, and answer the first request with this document."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await websocket(reader, writer)
        writer.write(ACK)
        async for _, request in requests(reader):
            writer.write(answer("PULL-DOC-REPLY", request, content))

    return converse


UNKNOWN = document_of('{"type":"object","name":"NoSuchModel","id":"1"}')


@pytest.mark.parametrize(
    ("converse", "kind"),
    [
        pytest.param(_nothing, ServerSilent, id="accepts and says nothing"),
        pytest.param(_says(), ServerSilent, id="a websocket without ACK"),
        pytest.param(_says(ACK), ServerSilent, id="no answer to the pull"),
        pytest.param(_answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), NotAServer, id="a web page"),
        pytest.param(_answers(b"220 mail.example ESMTP\r\n"), NotAServer, id="another protocol"),
        pytest.param(_answers(b""), NotAServer, id="hangs up"),
        pytest.param(
            _answers(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"), NotLoggedIn, id="redirect"
        ),
        pytest.param(_says(b"\xf1\x02hi"), ServerGarbled, id="frames that are none"),
        pytest.param(_says(text_frame("no JSON")), ServerGarbled, id="no JSON"),
        pytest.param(_says(text_frame("[]")), ServerGarbled, id="a header that is none"),
        pytest.param(_says(b"\x82\x02hi"), ServerGarbled, id="binary where text belongs"),
        pytest.param(_says(_message("PULL-DOC-REPLY")), ServerGarbled, id="no ACK first"),
        pytest.param(_says(ACK, _message("PUSH-DOC")), ServerGarbled, id="a request"),
        pytest.param(_to_the_pull("{}"), ServerGarbled, id="a document that is none"),
        pytest.param(_to_the_pull(UNKNOWN), ServerGarbled, id="unknown models"),
        pytest.param(_says(b"\x81\x7f" + (2**40).to_bytes(8, "big")), MessageTooLarge, id="a huge frame"),
        pytest.param(_says(*[text_frame("{}" + " " * 60000)] * 3), ServerGarbled, id="no header, at length"),
        pytest.param(_says(ACK, b"\x88\x02\x03\xf4"), ServerGone, id="goes away"),
    ],
)
def test_a_rogue_is_named(converse: Conversation, kind: type[ClientError]) -> None:
    """Each by an exception of its own, for both faces, and within the timeouts that the client was given."""

    async def scenario() -> None:
        async with rogue_server(converse) as url:
            patience: dict[str, Any] = {"connect_timeout": SHORT, "timeout": SHORT}
            with pytest.raises(ClientError) as found:
                async with asyncio.timeout(STEPS * SHORT + seconds(MARGIN)):
                    await opened(url, **patience)
            assert type(found.value) is kind, repr(found.value)
            with pytest.raises(ClientError) as blocking:
                async with asyncio.timeout(STEPS * SHORT + seconds(MARGIN)):
                    await asyncio.to_thread(pull_session, url=url, **patience)
            assert type(blocking.value) is kind, repr(blocking.value)

    run(scenario())


def test_a_message_above_the_limit_is_named(signed: StockNode) -> None:
    """The limit is the caller's own."""
    problem = refusal(signed.app_url("/context"), secret_key=KEY, max_message_size=300)
    assert type(problem) is MessageTooLarge
    assert "max_message_size" in str(problem)


def test_a_blocking_call_that_keeps_the_server_from_running_says_so() -> None:
    """A server on the caller's own loop can never answer; the text names what to use there."""

    async def scenario() -> None:
        async with rogue_server(_says(ACK)) as url:
            with pytest.raises(LoopBlocked) as found:
                pull_session(url=url, connect_timeout=SHORT, timeout=SHORT)
            assert "aperture.client.connect" in str(found.value)

    run(scenario())


def test_connect_does_not_raise_and_tells_when_asked() -> None:
    """As in Bokeh's class: the error is there to be looked at, and to be raised."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    session = ClientSession(websocket_url=f"ws://127.0.0.1:{port}/app/ws")
    assert (session.error_reason, session.error_code, session.error_detail) == (None, 0, "")
    session.connect()
    assert not session.connected
    assert session.error_reason is not None
    assert session.error_reason.name == "NETWORK_ERROR"
    with pytest.raises(OSError, match="no answer from"):
        session.check_connection_errors()
    session.close()
