"""Early pages: a browser's page is there before its session, which is made once, wherever its websocket comes in."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.cluster import PLACEMENTS, Cluster, placed, session_of
from support.fetch import Response, fetch
from support.node import Node, app_path
from support.patience import run, wait_until
from support.wire import ConnectionEnded, Viewer, token_of

from aperture.protocol.closing import INTERNAL_ERROR

BROWSER = {"Sec-Fetch-Dest": "document"}
PAGES = 200


def is_early(page: Response) -> bool:
    assert page.status == 200, page.text
    return 'id="aperture-document"' in page.text


def early_page(node: Node, app: str, headers: dict[str, str] = BROWSER) -> Response:
    """An early page, when all workers send them: each has made a session before, which a busy one is not asked for."""

    def came() -> bool:
        fetch(node.app_url(app), headers=headers)
        return {session["pid"] for session in node.sessions()} == set(node.worker_pids())

    wait_until(came, 20, "some worker gets no page")
    page = fetch(node.app_url(app), headers=headers)
    assert is_early(page)
    return page


async def moved(url: str, token: str, value: int) -> str:
    """What the text says when the slider has been moved."""
    async with Viewer.open(url, token) as viewer:
        await viewer.pull()
        assert (await viewer.set("slider", "value", value)).msgtype == "OK"
        await viewer.wait_for_value("seen", "text", str(value))
        text: str = viewer.value("seen", "text")
        return text


def test_only_browsers_get_early_pages_and_none_the_first() -> None:
    """Nor do requests that are refused."""
    options = ["--early-pages", "--auth-module", app_path("auth.py"), "--session-ids", "signed"]
    alice = {"Cookie": "user=alice"}
    with Node("relayed.py", options=options, env={"BOKEH_SECRET_KEY": "k" * 32}) as node:
        url = node.app_url("/relayed")
        assert fetch(url, headers=BROWSER).status == 302
        assert not is_early(fetch(url, headers={**alice, **BROWSER}))
        page = fetch(url, headers={**alice, **BROWSER})
        assert is_early(page)
        assert page.headers["cache-control"] == "no-store"
        for others in ({}, {"Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Dest": "empty"}):
            assert not is_early(fetch(url, headers={**alice, **others}))
        assert fetch(url, headers=BROWSER).status == 302
        assert fetch(f"{url}?bokeh-session-id=forged", headers={**alice, **BROWSER}).status == 403
        script = f"{url}/autoload.js?bokeh-autoload-element=here"
        assert "aperture-loaded" in fetch(script, headers={**alice, "Sec-Fetch-Dest": "empty"}).text
        assert "aperture-loaded" not in fetch(script, headers=alice).text


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_websocket_may_come_in_anywhere(placement: str, tmp_path: Path) -> None:
    """And learns anywhere that the app has failed, which ran once."""
    switches = {"APP_RUNS": str(tmp_path / "runs"), "EARLY_FAILS": str(tmp_path / "fails")}
    with placed(placement, "early.py", "--early-pages", "--num-threads", "2", env=switches) as (made, visited):
        page = early_page(made, "/early")
        assert run(moved(visited.ws_url("/early"), token_of(page.text), 7), 60) == "7"
        (tmp_path / "fails").touch()
        page = fetch(made.app_url("/early"), headers=BROWSER)
        assert is_early(page)
        made.wait_for_log("the app /early failed")
        with pytest.raises(ConnectionEnded) as ended:
            run(moved(visited.ws_url("/early"), token_of(page.text), 7), 60)
        assert ended.value.code == INTERNAL_ERROR
        runs = (tmp_path / "runs").read_text().split()
        assert runs.count(session_of(token_of(page.text))) == 1


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_code_begins_when_a_page_says_that_it_has_its_scripts(placement: str, tmp_path: Path) -> None:
    """Without threads it waits for that, wherever the word comes in; with a login, for the word of a user."""
    runs = tmp_path / "runs"
    options = ["--early-pages", "--auth-module", app_path("auth.py")]
    alice = {"Cookie": "user=alice", **BROWSER}
    with placed(placement, "early.py", *options, env={"APP_RUNS": str(runs)}) as (made, visited):
        page = early_page(made, "/early", alice)
        session_id = session_of(token_of(page.text))
        word = {"Bokeh-Session-Id": session_id}
        script = visited.app_url("/early/autoload.js")
        assert fetch(script, method="HEAD", headers=word).status == 302
        assert session_id not in runs.read_text()
        assert fetch(script, method="HEAD", headers={**alice, **word}).status == 204
        wait_until(lambda: session_id in runs.read_text(), 5, "its code does not run")
        assert fetch(script, method="HEAD", headers={**alice, "Bokeh-Session-Id": "unknown"}).status == 204
        assert "unknown" not in runs.read_text()


@contextmanager
def unread(node: Node, path: str) -> Iterator[str]:
    """A file that the node has begun to send; gives the host to which, as an URL has it."""
    port = urlsplit(node.url).port
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", port))
        peer.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert peer.recv(12) == b"HTTP/1.1 200"
        yield "127.0.0.1"


def test_code_waits_for_what_its_worker_is_sending_to_the_visitor(tmp_path: Path) -> None:
    """Wherever the page's word comes in, which is answered at once: a visitor may stop reading."""
    runs = tmp_path / "runs"
    with placed("two nodes", "early.py", "--early-pages", env={"APP_RUNS": str(runs)}) as (made, visited):
        for node in (made, visited):
            session_id = session_of(token_of(early_page(made, "/early").text))
            with unread(made, "/static/js/compiler.js") as host:  # more than the system takes
                script = node.app_url("/early/autoload.js").replace("localhost", host)
                assert fetch(script, method="HEAD", headers={"Bokeh-Session-Id": session_id}).status == 204
                time.sleep(1)
                assert session_id not in runs.read_text()
            wait_until(lambda: session_id in runs.read_text(), 5, "its code does not run")  # noqa: B023  # at once


def test_session_urls_have_early_pages() -> None:
    options = ["--early-pages", "--session-urls", "--user-header", "X-User", "--num-procs", "2"]
    alice, bob = {**BROWSER, "X-User": "alice"}, {**BROWSER, "X-User": "bob"}
    with Node("relayed.py", options=options) as node:
        url = node.app_url("/relayed")

        def at_url() -> tuple[str, Response]:
            there = url + fetch(url, headers=alice).headers["location"]
            return there, fetch(there, headers=alice)

        found: list[tuple[str, Response]] = []

        def came() -> bool:
            found.append(at_url())
            return is_early(found[-1][1])

        wait_until(came, 20, "no page is an early one")
        there, page = found[-1]
        assert session_of(token_of(page.text)) in there
        assert run(moved(node.ws_url("/relayed"), token_of(page.text), 7), 60) == "7"
        again = fetch(there, headers=alice)
        assert not is_early(again), "the session lives"
        assert session_of(token_of(again.text)) in there
        assert fetch(there, headers=bob).status == 303


def test_pages_of_panel_stay_ordinary_and_have_session_urls() -> None:
    """Panel writes into a page which scripts its models need, which only the session knows."""
    with Node("paneling.py", options=["--early-pages", "--session-urls"]) as node:
        url = node.app_url("/paneling")
        for _ in range(2):  # the first page of an app is never an early one
            redirect = fetch(f"{url}?a=1", headers=BROWSER)
            assert redirect.status == 303
            there = url + redirect.headers["location"]
            assert "?a=1&" in there
            page, again = fetch(there, headers=BROWSER), fetch(there, headers=BROWSER)
            assert not is_early(page)
            assert session_of(token_of(page.text)) in there
            assert session_of(token_of(again.text)) == session_of(token_of(page.text))
        assert len(node.sessions()) == 2


def test_two_hundred_early_pages_make_two_hundred_sessions_that_end(tmp_path: Path) -> None:
    """Over two nodes that take turns: each app ran once, every slider answers, closed tabs leave nothing."""
    runs = tmp_path / "runs"

    async def visit(cluster: Cluster, number: int, gate: asyncio.Semaphore) -> tuple[str, bool]:
        async with gate:
            page = await asyncio.to_thread(fetch, cluster.app_url("/relayed"), headers=BROWSER)
            token = token_of(page.text)
            if number % 2:
                assert await moved(cluster.ws_url("/relayed"), token, number) == str(number)
            return session_of(token), is_early(page)

    async def all_visits(cluster: Cluster) -> list[tuple[str, bool]]:
        gate = asyncio.Semaphore(8)
        return await asyncio.gather(*(visit(cluster, number, gate) for number in range(PAGES)))

    options = ["--early-pages", "--unused-session-lifetime", "15000", "--check-unused-sessions", "500"]
    with Cluster("relayed.py", options=options, env={"APP_RUNS": str(runs)}) as cluster:
        visits = run(all_visits(cluster), 240)
        sessions = [session_id for session_id, _ in visits]
        assert sum(early for _, early in visits) >= PAGES - 32, "all but the first ones of each worker, which overlap"
        wait_until(lambda: not any(node.sessions() for node in cluster.nodes), 90, "sessions do not expire")
        ran = [line.split()[1] for line in runs.read_text().splitlines()]
        assert sorted(ran) == sorted(set(sessions))
        assert len(ran) == PAGES
        with cluster.redis() as client:
            left = [key for key in client.scan_iter() if client.type(key) == b"string" and b"epoch" not in key]
        assert not [key for key in left if any(one.encode() in key for one in sessions)]
