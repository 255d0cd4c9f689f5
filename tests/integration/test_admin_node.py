"""The admin endpoints of one node: its token, its drain, and the end of a session."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.fetch import Response, fetch
from support.node import Node
from support.patience import run, wait_until
from support.wire import ConnectionEnded, Viewer, page_token

TOKEN = "a-token.of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MEANT = {"X-Aperture": "1"}
DELAY = 1.5


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node("relayed.py", options=["--num-procs", "2"]) as node:
        yield node


def post(node: Node, path: str, headers: dict[str, str] | None = None) -> Response:
    return fetch(node.admin_url + path, "POST", headers=MEANT if headers is None else headers)


async def opened(node: Node) -> tuple[str, str]:
    """A page's token, and its session id as it is shown."""
    before = {row["id"] for row in node.sessions()}
    token = page_token(node.app_url("/relayed"))
    (shown,) = {row["id"] for row in node.sessions()} - before
    return token, shown


def test_an_ended_session_is_gone_and_its_viewer_is_told(node: Node) -> None:
    """Code 1000, and the row is no longer listed."""

    async def scenario() -> None:
        token, shown = await opened(node)
        async with Viewer.open(node.ws_url("/relayed"), token) as viewer:
            await viewer.pull()
            answer = post(node, f"/sessions/{shown}/end")
            assert answer.status == 200, answer.text
            with pytest.raises(ConnectionEnded) as ended:
                while True:
                    await viewer.next_message()
            assert ended.value.code == 1000
        assert shown not in {row["id"] for row in node.sessions()}
        assert post(node, f"/sessions/{shown}/end").status == 404

    run(scenario())


def test_a_session_that_nothing_keeps_is_not_moved(node: Node) -> None:
    """Its state would be lost: 409 says so, and its viewer notices nothing."""

    async def scenario() -> None:
        token, shown = await opened(node)
        async with Viewer.open(node.ws_url("/relayed"), token) as viewer:
            await viewer.pull()
            answer = post(node, f"/sessions/{shown}/move")
            assert answer.status == 409
            assert "durability" in answer.json()["message"]
            assert (await viewer.set("slider", "value", 5)).msgtype == "OK"

    run(scenario())


def test_a_beginning_that_fits_several_sessions_moves_none(node: Node) -> None:
    """409 asks for more of the id; with all of it the order is carried out."""
    for name in ("ambiguous-one", "ambiguous-two"):
        assert fetch(node.app_url(f"/relayed?bokeh-session-id={name}")).status == 200
    assert post(node, "/sessions/ambiguou/end").status == 409
    assert post(node, "/sessions/ambiguous-one/end").status == 200
    assert post(node, "/sessions/ambiguou/end").status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sessions/absentha/end", 404),
        ("/sessions/abc/end", 400),
        ("/sessions/absentha/move?to=x", 400),
        ("/sessions/absentha/move?to=-1", 400),
        ("/sessions/absentha/end?to=1", 400),
        ("/sessions/absentha/explode", 404),
        ("/sessions/" + "x" * 2000 + "/end", 404),
        ("/sessions/%ff%fe%fd%fc%fb/end", 404),
    ],
)
def test_orders_that_make_no_sense_are_refused(node: Node, path: str, status: int) -> None:
    """With a sentence in JSON, and nothing else happens."""
    answer = post(node, path)
    assert answer.status in (status, 400)
    assert answer.json()["ok"] is False


def test_a_page_of_another_site_cannot_give_orders(node: Node) -> None:
    """A POST without the header that says it is meant, and any request under a strange name."""
    assert post(node, "/sessions/whatever/end", {}).status == 403
    assert (
        post(node, "/sessions/whatever/end", {"Content-Type": "text/plain", "Origin": "http://evil.example"}).status
        == 403
    )
    assert fetch(node.admin_url + "/sessions", headers={"Host": "evil.example"}).status == 403


def test_orders_are_given_by_post_alone(node: Node) -> None:
    """What prefetches links ends no session."""
    answer = fetch(node.admin_url + "/sessions/whatever/end")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_node_alone_is_a_cluster_of_one(node: Node) -> None:
    """`?cluster=1` lists the same workers and sessions."""
    whole = node.admin("/workers?cluster=1")
    assert [row["pid"] for row in whole["workers"]] == node.worker_pids()
    assert whole["missing_workers"] == []
    listed = node.admin("/sessions?cluster=1")
    assert {row["id"] for row in listed["sessions"]} == {row["id"] for row in node.sessions()}


def test_a_stuck_worker_is_missing_and_keeps_nobody_waiting(node: Node) -> None:
    """Liveness and readiness ask no worker, and the lists go on without it."""
    stuck = node.workers()[0]
    node.kill(stuck["pid"], signal.SIGSTOP)
    try:
        assert fetch(node.admin_url + "/livez").status == 200
        assert fetch(node.admin_url + "/readyz").status == 200
        assert node.admin("/sessions")["missing"] == [0]
        missing = node.admin("/workers?cluster=1")["missing_workers"]
        assert missing == [{"node": stuck["node"], "worker": 0}]
    finally:
        node.kill(stuck["pid"], signal.SIGCONT)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    file = tmp_path_factory.mktemp("secret") / "token"
    file.write_text(TOKEN + "\n")
    with Node("relayed.py", options=["--admin-token-file", str(file), "--drain-delay", str(DELAY)]) as node:
        yield node


@pytest.mark.parametrize("path", ["/sessions", "/workers", "/metrics", "/sessions/abcdefgh/end", "/nothing"])
def test_a_token_guards_everything_but_the_probes(guarded: Node, path: str) -> None:
    """401 names the scheme; with the token the request gets where it wants to."""
    refused = fetch(guarded.admin_url + path)
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert fetch(guarded.admin_url + path, headers={"Authorization": "Bearer wrong"}).status == 401
    assert fetch(guarded.admin_url + path, headers=BEARER).status != 401


def test_probes_need_no_token(guarded: Node) -> None:
    """The kubelet has none."""
    assert fetch(guarded.admin_url + "/livez").status == 200
    assert fetch(guarded.admin_url + "/readyz?verbose").status == 200


def test_drain_brings_the_token(guarded: Node) -> None:
    """Without it `aperture drain` says what is wanted; with it the worker is replaced. The environment says where."""
    environment = os.environ | {"APERTURE_ADMIN_PORT": guarded.admin_url.rpartition(":")[2]}
    command = [sys.executable, "-m", "aperture", "drain"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "wants its token" in refused.stderr
    environment["APERTURE_ADMIN_TOKEN"] = TOKEN
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    guarded.wait_for_log(r"worker 0 serves", 2)


def test_readiness_turns_off_before_anything_is_closed(guarded: Node) -> None:
    """SIGTERM: unready at once; new and old connections are served through the delay; `/readyz` says 503 to the end."""

    async def scenario() -> None:
        token = page_token(guarded.app_url("/relayed"))
        async with Viewer.open(guarded.ws_url("/relayed"), token) as viewer:
            await viewer.pull()
            guarded.process.send_signal(signal.SIGTERM)
            wait_until(lambda: fetch(guarded.admin_url + "/readyz").status == 503)
            answer = fetch(guarded.admin_url + "/readyz?verbose")
            assert "[-] not-draining" in answer.text
            assert (await viewer.set("slider", "value", 7)).msgtype == "OK"
            page_token(guarded.app_url("/relayed"))  # a load balancer that has not heard yet
            assert fetch(guarded.admin_url + "/livez").status == 200
            assert await viewer.wait_closed() == 1012
        assert guarded.wait() == 0
        assert TOKEN not in guarded.log()
        assert re.search(r"closed GET /relayed/ws \(\S+\) code 1012 \(restarting\) after", guarded.log())

    run(scenario())


def test_the_admin_port_answers_while_sessions_are_handed_over() -> None:
    """Without a delay, too: a client that was closed can ask, and the node is not ready."""

    async def scenario(node: Node) -> None:
        token = page_token(node.app_url("/relayed"))
        owner = node.sessions()[0]["pid"]
        other = next(pid for pid in node.worker_pids() if pid != owner)
        async with Viewer.open(node.ws_url("/relayed"), token) as viewer:
            await viewer.pull()
            node.kill(other, signal.SIGSTOP)  # it takes its leave for as long as we like
            node.process.send_signal(signal.SIGTERM)
            assert await viewer.wait_closed() == 1012
            unready = fetch(node.admin_url + "/readyz?verbose")
            assert unready.status == 503
            assert "[-] not-draining" in unready.text, "it is unready because a worker has gone, and not since before"
            assert fetch(node.admin_url + "/livez").status == 200
            with socket.socket() as late:
                assert late.connect_ex(("127.0.0.1", node.port)) != 0, "the app port is closed by then"
            node.kill(other, signal.SIGCONT)
        assert node.wait() == 0

    with Node("relayed.py", options=["--num-procs", "2"]) as node:
        run(scenario(node))


def test_an_open_admin_port_without_a_token_is_warned_of() -> None:
    """One line, for an operator who published it by mistake."""
    with Node("relayed.py", options=["--admin-address", "0.0.0.0"]) as node:
        assert node.log().count("without a token") == 1
