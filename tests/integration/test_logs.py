"""The log of a running node: what its lines say, what they must never say, and what happens when they are not read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fetch import fetch
from support.node import Node, app_path
from support.patience import seconds, wait_until
from support.wire import Viewer, page_token
from tornado.httpclient import HTTPClientError

from aperture.protocol.tokens import read_session_id

Line = dict[str, Any]

SECRETS = [
    "S3cretSessionIdOfSomebody",
    "eyJzZWNyZXQiOiAiVG9rZW4ifQ",
    "C00kieOfSomebody",
    "B3arerOfSomebody",
    "QuerySecret77",
]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Two workers that log everything as JSON, which is the default."""
    options = ["--num-procs", "2", "--log-level", "debug", "--auth-module", app_path("auth.py")]
    with Node("talking.py", options=options, env={"APERTURE_LOG_FORMAT": None}) as running:
        yield running


@pytest.fixture(scope="module")
def signing() -> Iterator[Node]:
    """One whose session ids and tokens are signed."""
    options = ["--session-ids", "signed", "--log-level", "debug", "--auth-module", app_path("auth.py")]
    env = {"APERTURE_LOG_FORMAT": None, "BOKEH_SECRET_KEY": "of-this-test-alone-and-of-no-other-server"}
    with Node("talking.py", options=options, env=env) as running:
        yield running


ADDRESS = re.compile(r"Bokeh app running at: http://localhost:\d+/talking\n")


def lines(node: Node) -> list[Line]:
    """The log so far; every line but the address on standard output has to be an object. The last may be on its way."""
    written = node.log().splitlines(keepends=True)
    return [json.loads(line) for line in written if line.endswith("\n") and not ADDRESS.fullmatch(line)]


def wait_for_line(node: Node, fits: Callable[[Line], bool]) -> Line:
    wait_until(lambda: any(map(fits, lines(node))), 20, f"no such line:\n{node.log()[-5000:]}")
    return next(filter(fits, lines(node)))


def named(request: str, message: str) -> Callable[[Line], bool]:
    return lambda line: line.get("request") == request and line["message"].startswith(message)


USER = {"Cookie": "user=visitor"}


def test_every_process_says_who_it_is(node: Node) -> None:
    """Supervisor, gateway and workers by name, on one node, with levels and times; the URLs are in the messages."""
    known = lines(node)
    serving = wait_for_line(node, lambda line: line["message"].startswith("worker 1 serves"))
    assert (serving["process"], serving["level"], serving["logger"]) == ("worker 1", "info", "aperture.worker.main")
    assert {line["process"] for line in known} >= {"supervisor", "worker 0", "worker 1"}
    assert len({line["node"] for line in known if "node" in line}) == 1
    (line,) = [line for line in known if "app running at" in line["message"]]
    assert line["url"] == node.app_url("/talking")
    assert line["message"] == f"Bokeh app running at: {line['url']}"


def test_an_apps_own_lines_say_whose_they_are(node: Node) -> None:
    """The request that made the session, then the websocket's; a later tick belongs to the session alone."""

    async def scenario() -> str:
        token = page_token(node.app_url("/talking"), headers={**USER, "X-Request-ID": "the-page"})
        headers = {**USER, "X-Request-ID": "the-socket"}
        async with Viewer.open(node.ws_url("/talking"), token, headers=headers) as viewer:
            await viewer.pull()
            await viewer.set("slider", "value", 5)
            await viewer.set("slider", "value", 13)
        return token

    session = (read_session_id(asyncio.run(scenario())) or "")[:8]
    made = wait_for_line(node, named("the-page", "an app is made"))
    assert (made["session"], made["app"], made["message"]) == (session, "/talking", f"an app is made for {session}")
    moved = wait_for_line(node, named("the-socket", "the slider went to 5\nand no further"))
    assert (moved["session"], moved["position"]) == (session, 5)
    tick = wait_for_line(node, lambda line: line["message"] == "and a tick later")
    assert (tick["session"], "request" in tick) == (session, False)
    failed = wait_for_line(node, lambda line: "exception" in line and line.get("session") == session)
    assert failed["exception"].endswith("ValueError: an unlucky number")
    page = wait_for_line(node, named("the-page", "200 GET /talking"))
    assert page["milliseconds"] > 0
    assert (page["status"], page["method"], page["path"], page["session"]) == (200, "GET", "/talking", session)
    closed = wait_for_line(node, named("the-socket", "closed GET /talking/ws"))
    assert (closed["code"], closed["reason"], closed["messages_in"], closed["session"]) == (1005, "", 3, session)
    assert min(closed[name] for name in ("bytes_in", "bytes_out", "messages_out", "seconds")) > 0


def test_an_answer_names_its_request(node: Node) -> None:
    """A sane name is kept, another is replaced; one that a log line could be forged with gets nowhere."""

    def echoed(name: str) -> str:
        return fetch(node.app_url("/favicon.ico"), headers={"X-Request-ID": name}).headers["x-request-id"]

    assert echoed("abc-1") == "abc-1"
    assert echoed("x" * 100) != "x" * 100
    assert '"' not in echoed('a","level":"error')


def raw(node: Node, request: str) -> None:
    """Send something and read until the server closes."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=seconds(20)) as connection:
        connection.sendall(request.encode("latin-1"))
        while connection.recv(65536):
            pass


def hostile_requests() -> list[str]:
    """Secrets in every place where a request has them, in requests that go wrong in all sorts of ways."""
    session, token, cookie, bearer, query = SECRETS
    headers = (
        f"Host: x\r\nCookie: user=visitor; sid={cookie}\r\nAuthorization: Bearer {bearer}\r\n"
        f"Sec-WebSocket-Protocol: bokeh, {token}\r\nConnection: close\r\n"
    )
    upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    arguments = f"?bokeh-token={token}&bokeh-session-id={session}&key={query}"
    paths = (
        "/talking",
        "/talking/ws",
        "/talking/autoload.js",
        "/nowhere",
        "/talking/static/../../etc",
        "/static/no.js",
    )
    requests = [f"GET {path}{arguments} HTTP/1.1\r\n{headers}\r\n" for path in paths]
    requests += [f"GET {path}{arguments} HTTP/1.1\r\n{headers}{upgrade}\r\n" for path in paths]
    requests += [
        f"GET /talking?bokeh-session-id={session} HTTP/1.1\r\n{headers}Bokeh-Session-Id: {session}\r\n\r\n",
        f"POST /login{arguments} HTTP/1.1\r\n{headers}Content-Length: 5\r\n\r\nuser=",
        f"BREW /talking{arguments} HTTP/1.1\r\n{headers}\r\n",
        f"GET /talking{arguments} HTTP/9.9\r\n{headers}\r\n",
        f"GET /talking{arguments} HTTP/1.1\r\n{headers}Content-Length: nonsense\r\n\r\n",
        f"GET /talking{arguments} HTTP/1.1\r\n{headers}Transfer-Encoding: {bearer}\r\n\r\n",
        f"GET /talking{arguments} HTTP/1.1\r\n{headers} folded {cookie}\r\n\r\n",
        f"GET /talking{arguments} HTTP/1.1\r\nCookie {cookie}\r\n\r\n",
        f"GET /\x1b[31mtalking\x07\x85{arguments} HTTP/1.1\r\n{headers}\r\n",
        f"GET /talking%0aINFO%20forged{arguments} HTTP/1.1\r\n{headers}\r\n",
        f"POST /talking/static/x{arguments} HTTP/1.1\r\n{headers}Content-Length: 3\r\n\r\nabc",
    ]
    return requests


@pytest.mark.parametrize("name", ["node", "signing"])
def test_no_secret_is_in_any_line(name: str, request: pytest.FixtureRequest) -> None:
    """At the level of debug, after requests that are refused, broken, and good: no token, cookie, session id, query,
    and no signature of one.
    """
    node: Node = request.getfixturevalue(name)
    for hostile in hostile_requests():
        raw(node, hostile)

    async def scenario() -> str:
        token = page_token(node.app_url("/talking?key=QuerySecret77"), headers=USER)
        async with Viewer.open(node.ws_url("/talking"), token, headers=USER) as viewer:
            await viewer.pull()
            await viewer.send_frame("{" + token)
            await viewer.wait_closed()
        with pytest.raises(HTTPClientError):
            async with Viewer.open(node.ws_url("/talking"), token + "x", headers=USER):
                pass
        return token

    token = asyncio.run(scenario())
    fetch(node.app_url("/favicon.ico"), headers={"X-Request-ID": "the-last"})
    wait_for_line(node, named("the-last", "200 GET"))
    log = node.log()
    session = read_session_id(token) or ""
    assert ("." in session) is (name == "signing")
    heard = wait_for_line(node, lambda line: line["message"].startswith("a thread has heard of " + session[:8]))
    assert "session" not in heard, "the line is not of the session's scope, so the id was known by its form"
    for secret in [*SECRETS, *token.split("."), *session.split("."), token[:40]]:
        assert secret not in log
    assert all(line.isprintable() for line in log.split("\n"))
    assert sum("forged" in line["message"] for line in lines(node)) <= 3


def test_a_node_whose_log_nobody_reads_goes_on(tmp_path: Path) -> None:
    """The reader of the pipe goes away, and another one reads nothing: pages are served all the same."""
    port = _free_port()
    command = [sys.executable, "-m", "aperture", "serve", app_path("talking.py"), "--admin-port", "none"]
    for gone in (True, False):
        reading, writing = os.pipe()
        if gone:
            os.close(reading)
        process = subprocess.Popen([*command, "--port", str(port)], stderr=writing, stdout=writing)
        os.close(writing)
        try:
            wait_until(lambda: _serves(port), 60, "the node does not serve")
            for _ in range(10 if gone else 600):
                # A line of each is 400 bytes: the pipe is full long before the last.
                assert fetch(f"http://127.0.0.1:{port}/nowhere").status == 404
            process.terminate()
            assert process.wait(seconds(20)) == 0
        finally:
            process.kill()
            process.wait()
            if not gone:
                os.close(reading)


def _serves(port: int) -> bool:
    try:
        return fetch(f"http://127.0.0.1:{port}/favicon.ico").status == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_file_that_several_processes_write_to_holds_whole_lines(tmp_path: Path) -> None:
    """Through a rotation as well: each process goes on in the new file, and every line is whole."""
    file = tmp_path / "node.log"
    options = ["--num-procs", "2", "--log-file", str(file)]
    with Node("talking.py", options=options, env={"APERTURE_LOG_FORMAT": None}, wait=False) as node:
        wait_until(lambda: file.exists() and "app running at" in file.read_text(), 60, "it does not serve")
        messages = [json.loads(line)["message"] for line in file.read_text().splitlines()]
        url = next(message for message in messages if "app running at" in message).rpartition(" ")[2]
        file.rename(tmp_path / "node.log.1")
        for _ in range(20):
            assert fetch(url).status == 200
        wait_until(lambda: file.exists() and file.read_text().count("200 GET /talking") == 20, 20, "lines are missing")
        assert ADDRESS.fullmatch(node.log())
    old, new = ((tmp_path / name).read_text().splitlines() for name in ("node.log.1", "node.log"))
    assert all(isinstance(json.loads(line), dict) for line in (*old, *new))
    assert "stopping" in [json.loads(line)["message"] for line in new]


def test_a_program_reads_the_address_from_either_stream(tmp_path: Path) -> None:
    """Stock's line alone is on standard output, whatever form the log has; the log's own is stock's, too."""
    pattern = r"Bokeh app running at: (http://localhost:\d+/\w+)"
    for form in ("json", "human"):
        command = [sys.executable, "-m", "aperture", "serve", *map(app_path, ("talking.py", "rows.py")), "--port", "0"]
        command += ["--admin-port", "none", "--log-format", form]
        with (
            (tmp_path / form).open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                found = [re.fullmatch(pattern + "\n", process.stdout.readline()) for _ in range(2)]
                urls = [match.group(1) for match in found if match is not None]
                assert [url.rpartition("/")[2] for url in urls] == ["rows", "talking"]
                assert all(fetch(url).status == 200 for url in urls)
            finally:
                process.terminate()
                process.wait(seconds(20))
            assert process.stdout.read() == ""
        assert re.findall(pattern, (tmp_path / form).read_text())[:2] == urls


def test_a_terminal_gets_lines_for_people(tmp_path: Path) -> None:
    """With colours, unless NO_COLOR says otherwise, and the same URL in them."""
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        controller, terminal = os.openpty()
        command = [sys.executable, "-m", "aperture", "serve", app_path("talking.py"), "--admin-port", "none"]
        process = subprocess.Popen(
            [*command, "--port", "0"], stderr=terminal, env=os.environ | {"TERM": "xterm"} | environment
        )
        os.close(terminal)
        seen = b""
        try:
            while b"Supervisor is process" not in seen:
                seen += os.read(controller, 65536)
        finally:
            process.terminate()
            process.wait(seconds(20))
            os.close(controller)
        assert b"app running at: http://localhost:" in seen
        assert (b"\x1b[" in seen) is coloured
