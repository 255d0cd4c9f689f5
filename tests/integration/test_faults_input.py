"""Bad input, each kind with a clear answer, and the server going on: what pages and websockets refuse, and how."""

from __future__ import annotations

import base64
import json
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id
from support.fetch import fetch
from support.node import Node
from support.patience import run, seconds
from support.wire import Viewer, page_token
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClosedError

from aperture.protocol.tokens import MAX_TOKEN

SECRET = "a secret of the tests"
OTHER = b"another user's secret"

PROTOCOL_ERROR = 1002
NOT_CONSISTENT = 1007
TOO_BIG = 1009


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Unsigned ids, messages of 100 KB at most."""
    with Node("raising.py", options=["--websocket-max-message-size", "100000", "--num-procs", "2"]) as node:
        yield node
        assert fetch(node.app_url("/raising")).status == 200, "the server did not go on"


@pytest.fixture(scope="module")
def signing() -> Iterator[Node]:
    """Signed ids, and only one origin besides its own."""
    options = ["--session-ids", "signed", "--allow-websocket-origin", "dashboard.corp"]
    with Node("raising.py", options=options, env={"BOKEH_SECRET_KEY": SECRET}) as node:
        yield node
        assert fetch(node.app_url("/raising")).status == 200, "the server did not go on"


def _token_with(fields: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


def _packing(packed: bytes) -> str:
    payload = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    return _token_with({"session_id": "a" * 44, "session_expiry": time.time() + 300, "__bk__zlib_": payload})


def _bomb() -> str:
    """A token whose payload inflates to 64 MB: what deflate can make of all that a token may hold is hardly more."""
    squeeze = zlib.compressobj(9)
    chunk = b"0" * (1024 * 1024)
    token = _packing(b"".join(squeeze.compress(chunk) for _ in range(64)) + squeeze.flush())
    assert 0.8 * MAX_TOKEN < len(token) <= MAX_TOKEN, "a longer one is refused for its length, unread"
    return token


def _carrying(payload: object) -> str:
    return _packing(zlib.compress(json.dumps(payload).encode()))


def _refusal(node: Node, token: str | None, **options: Any) -> HTTPClientError:
    """What the handshake is refused with."""

    async def scenario() -> None:
        async with Viewer.open(node.ws_url("/raising"), token, **options):
            raise AssertionError("the handshake was accepted")

    with pytest.raises(HTTPClientError) as refused:
        run(scenario())
    return refused.value


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("garbage", id="garbage"),
        # Not the shortest one: three letters may be in the id of any request in the log.
        pytest.param(_token_with({"session_expiry": 2e10}), id="no session id"),
        pytest.param(_token_with({"session_id": 7, "session_expiry": 2e10}), id="id of the wrong type"),
        pytest.param(_token_with({"session_id": "x", "session_expiry": "soon"}), id="expiry of the wrong type"),
        pytest.param(_token_with({"session_id": "x"}), id="no expiry"),
        pytest.param(_token_with({"session_id": "x", "session_expiry": 1}), id="expired"),
        pytest.param(_bomb(), id="inflates to 64 MB"),
        pytest.param(_carrying({"headers": 5}), id="headers are none"),
        pytest.param(_carrying({"cookies": "abc"}), id="cookies are none"),
        pytest.param(_carrying({"arguments": [1]}), id="arguments are none"),
        pytest.param(_carrying({"arguments": {"x": 5}}), id="an argument of the wrong type"),
    ],
)
def test_a_bad_token_is_refused_with_403(node: Node, token: str) -> None:
    """The websocket handshake and the page are refused, with a reason and without a session."""
    assert _refusal(node, token).code == 403
    page = fetch(node.app_url(f"/raising?bokeh-token={quote(token)}"))
    assert page.status == 403
    assert token not in node.log()
    assert "Traceback" not in node.log()


def test_a_wrongly_signed_token_is_refused_with_403(signing: Node) -> None:
    """Neither a token without a signature, nor one of another key, nor a right one around a wrong id is let in."""
    for token in (
        generate_jwt_token("x" * 44),  # type: ignore[arg-type]
        generate_jwt_token(generate_session_id(OTHER, True), OTHER, True),
        generate_jwt_token("x" * 44, SECRET.encode(), True),  # type: ignore[arg-type]
    ):
        assert _refusal(signing, token).code == 403
        assert fetch(signing.app_url(f"/raising?bokeh-token={token}")).status == 403
    assert fetch(signing.app_url("/raising?bokeh-session-id=unsigned")).status == 403


def test_a_token_of_bokehs_own_making_is_accepted(signing: Node) -> None:
    """What `bokeh.util.token` signs with the same key opens a session, its payload and all."""
    session_id = generate_session_id(SECRET.encode(), True)
    token = generate_jwt_token(session_id, SECRET.encode(), True, extra_payload={"headers": {"A": "b"}, "cookies": {}})

    async def scenario() -> None:
        async with Viewer.open(signing.ws_url("/raising"), token) as viewer:
            await viewer.pull()

    run(scenario())


@pytest.mark.parametrize(
    "origin",
    [
        "http://dashboard.corp.attacker.com",
        "http://attacker.com/dashboard.corp",
        "http://attacker-dashboard.corp",
        "http://dashboard.corp:8080",
        "null",
        "",
    ],
)
def test_a_wrong_origin_is_refused_with_403(signing: Node, origin: str) -> None:
    """`dashboard.corp` does not admit names that merely begin or end with it (CVE-2026-21883)."""
    token = page_token(signing.app_url("/raising"))
    assert _refusal(signing, token, headers={"Origin": origin}).code == 403


@pytest.mark.parametrize("of_origin", ["http://dashboard.corp", "own"])
def test_the_right_origins_are_admitted(signing: Node, of_origin: str) -> None:
    """The origin that the option names, and the server's own."""
    origin = signing.url if of_origin == "own" else of_origin

    async def scenario() -> None:
        token = page_token(signing.app_url("/raising"))
        async with Viewer.open(signing.ws_url("/raising"), token, headers={"Origin": origin}) as viewer:
            await viewer.pull()

    run(scenario())


@pytest.mark.parametrize("offered", [[], ["bokeh"], ["other", "TOKEN"], ["bokeh", "TOKEN", "more"]])
def test_a_websocket_without_the_subprotocol_is_refused_with_400(node: Node, offered: list[str]) -> None:
    """The handshake needs exactly `bokeh, TOKEN`."""
    token = page_token(node.app_url("/raising"))
    protocols = [part.replace("TOKEN", token) for part in offered]
    assert _refusal(node, None, subprotocols=protocols).code == 400


def test_a_plain_request_to_the_websocket_is_refused_with_400(node: Node) -> None:
    """A browser that opens the websocket's address as a page gets an answer that says so."""
    assert fetch(node.app_url("/raising/ws")).status == 400


def test_an_unknown_app_is_not_found(node: Node) -> None:
    """404 for its page, and for its websocket even with a good token."""
    assert fetch(node.app_url("/nothing")).status == 404
    token = page_token(node.app_url("/raising"))

    async def scenario() -> None:
        async with Viewer.open(node.ws_url("/nothing"), token):
            raise AssertionError("the handshake was accepted")

    with pytest.raises(HTTPClientError) as refused:
        run(scenario())
    assert refused.value.code == 404


HEADER = '{"msgid": "1", "msgtype": "PATCH-DOC"}'


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([b"\0\1\2"], PROTOCOL_ERROR, id="binary where text belongs"),
        pytest.param(["no JSON"], NOT_CONSISTENT, id="header is no JSON"),
        pytest.param(["[]"], PROTOCOL_ERROR, id="header is no object"),
        pytest.param(["{}"], PROTOCOL_ERROR, id="header without fields"),
        pytest.param(['{"msgid": 1, "msgtype": []}'], PROTOCOL_ERROR, id="fields of wrong types"),
        pytest.param([HEADER, "{}", "{"], NOT_CONSISTENT, id="content is no JSON"),
        pytest.param([HEADER, "{}", "[]"], PROTOCOL_ERROR, id="content is no patch"),
        pytest.param([HEADER, "{}", '{"events": 5}'], PROTOCOL_ERROR, id="events is no list"),
        pytest.param(['{"msgid": "1", "msgtype": "NONSENSE"}', "{}", "{}"], PROTOCOL_ERROR, id="unknown type"),
        pytest.param(['{"msgid": "1", "msgtype": "ACK"}', "{}", "{}"], PROTOCOL_ERROR, id="a server's message"),
        pytest.param(["x" * 200_000], TOO_BIG, id="one frame over the limit"),
        pytest.param([HEADER, "{}", '{"a": "' + "x" * 99_990 + '"}'], TOO_BIG, id="a message over the limit"),
        pytest.param(
            ['{"msgid":"1","msgtype":"PATCH-DOC","num_buffers":1000000000}', "{}", "{}"],
            TOO_BIG,
            id="a billion buffers",
        ),
    ],
)
def test_what_breaks_the_protocol_closes_that_connection_only(node: Node, frames: list[str | bytes], code: int) -> None:
    """The connection is closed with a legal code; another one of the same session goes on."""

    async def scenario() -> int | None:
        token = page_token(node.app_url("/raising"))
        url = node.ws_url("/raising")
        async with Viewer.open(url, token) as bad, Viewer.open(url, token) as good:
            await good.pull()
            with suppress(WebSocketClosedError):  # the first frame may be enough
                for frame in frames:
                    await bad.send_frame(frame)
            closed_with = await bad.wait_closed()
            assert (await good.set("slider", "value", 2)).msgtype == "OK"
            return closed_with

    assert run(scenario()) == code


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "ModelChanged", "model": {"id": "absent"}, "attr": "value", "new": 1},
        {"kind": "ModelChanged", "model": {"id": "SLIDER"}, "attr": "value", "new": "a word"},
        {"kind": "ModelChanged", "model": {"id": "SLIDER"}},
        {"kind": "NoSuchKind"},
        {"kind": "RootAdded", "model": {"type": "object", "name": "os.system", "id": "x"}},
        {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": {"type": "event", "name": "nonsense"}},
    ],
    ids=lambda event: f"{event['kind']}-{event.get('attr', '')}",
)
def test_a_patch_that_cannot_be_applied_is_answered_with_an_error(node: Node, event: dict[str, Any]) -> None:
    """The sender gets the error, without a traceback; its connection and its session go on."""

    async def scenario() -> None:
        token = page_token(node.app_url("/raising"))
        async with Viewer.open(node.ws_url("/raising"), token) as viewer:
            await viewer.pull()
            slider = viewer.model("slider").id
            reply = await viewer.patch([json.loads(json.dumps(event).replace("SLIDER", slider))])
            assert reply.msgtype == "ERROR"
            assert reply.content["text"]
            assert not reply.content["traceback"]
            assert (await viewer.set("slider", "value", 3)).msgtype == "OK"

    run(scenario())


def test_a_callback_that_raises_is_told_to_the_sender_and_its_changes_to_all(node: Node) -> None:
    """The sender gets ERROR, everybody gets what changed before it, and the session lives."""

    async def scenario() -> None:
        token = page_token(node.app_url("/raising"))
        url = node.ws_url("/raising")
        async with Viewer.open(url, token) as sender, Viewer.open(url, token) as watcher:
            await sender.pull()
            await watcher.pull()
            reply = await sender.set("slider", "value", 5)
            assert reply.msgtype == "ERROR"
            assert "five is right out" in reply.content["text"]
            assert sender.value("seen", "text") == "saw 5"
            await watcher.wait_for_value("seen", "text", "saw 5")
            assert watcher.value("slider", "value") == 5
            assert (await sender.set("slider", "value", 6)).msgtype == "OK"
            await watcher.wait_for_value("seen", "text", "saw 6")

    run(scenario())


def test_garbage_on_the_port_is_answered_and_logged_without_a_traceback(node: Node) -> None:
    """Bytes that are no HTTP get 400, or nothing but a close, and the log holds no traceback of ours."""
    where = urlsplit(node.url)
    before = len(node.log())
    for garbage in (b"\0" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"x" * 200_000):
        with closing(socket.create_connection((where.hostname, where.port), timeout=seconds(20))) as raw:
            try:
                raw.sendall(garbage)
                raw.shutdown(socket.SHUT_WR)
                answer = raw.recv(1000)
            except ConnectionError:
                continue  # it was refused before all of it was sent
            assert answer == b"" or answer.split()[1] in (b"400", b"414", b"431")
    assert "Traceback" not in node.log()[before:]


def test_a_thousand_patches_at_once_are_answered_in_order(node: Node) -> None:
    """A client that does not wait for answers gets them all, in the order of its patches."""

    async def scenario() -> None:
        token = page_token(node.app_url("/raising"))
        async with Viewer.open(node.ws_url("/raising"), token) as viewer:
            await viewer.pull()
            slider = viewer.model("slider").id
            change = {"kind": "ModelChanged", "model": {"id": slider}, "attr": "value"}
            sent = [await viewer.send_patch([change | {"new": n % 5}]) for n in range(1000)]
            answered: list[str] = []
            while len(answered) < len(sent):
                message = await viewer.next_message()
                if message.msgtype == "OK":
                    answered.append(message.header["reqid"])
            assert answered == sent

    run(scenario())


def test_a_connection_that_ends_in_the_middle_of_a_message_changes_nothing(node: Node) -> None:
    """Half a message is dropped with its connection."""

    async def scenario() -> None:
        token = page_token(node.app_url("/raising"))
        url = node.ws_url("/raising")
        async with Viewer.open(url, token) as watcher:
            await watcher.pull()
            async with Viewer.open(url, token) as leaving:
                await leaving.send_frame(HEADER)
                await leaving.send_frame("{}")
            assert (await watcher.set("slider", "value", 4)).msgtype == "OK"

    run(scenario())
