"""Session URLs: a page without a session is sent to the URL of one, and that URL comes back to it, for its user."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from bokeh.client import pull_session
from bokeh.embed import server_session
from support.cluster import PLACEMENTS, Cluster, placed, session_of
from support.fetch import Response, fetch
from support.node import Node, app_path
from support.patience import run, wait_until
from support.wire import Viewer, token_of

SEE_OTHER = 303
ALICE, BOB = {"X-User": "alice"}, {"X-User": "bob"}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    options = ["--num-procs", "2", "--session-urls", "--user-header", "X-User", "--prefix", "/p"]
    with Node("broadcast.py", options=options) as node:
        yield node


def ask(url: str, headers: dict[str, str] | None = None) -> tuple[str, Response]:
    """The page at the end of the redirect, if there is one, and where it is."""
    first = fetch(url, headers=headers)
    if first.status != SEE_OTHER:
        return url, first
    assert first.headers["cache-control"] == "no-store"
    target = urljoin(url, first.headers["location"])
    return target, fetch(target, headers=headers)


def named(url: str) -> str:
    """The session that a URL names."""
    (session_id,) = parse_qs(urlsplit(url).query)["bokeh-session-id"]
    return session_id


def session_in(page: Response) -> str:
    assert page.status == 200, page.text
    return session_of(token_of(page.text))


def test_a_page_is_sent_to_its_session_and_comes_back_to_it(node: Node) -> None:
    url, page = ask(node.app_url("/p/broadcast") + "?a=1&a=%E4", ALICE)
    assert urlsplit(url).path == "/p/broadcast"
    assert urlsplit(url).query.startswith("a=1&a=%E4&")
    assert session_in(page) == named(url)
    again, same = ask(url, ALICE)
    assert again == url
    assert session_in(same) == named(url)
    assert page.headers["referrer-policy"] == "same-origin"


def test_a_session_that_is_gone_is_replaced_under_a_new_id(node: Node) -> None:
    """An id that this deployment never made is one that is gone, too."""
    for old in ("gone", "", "x" * 2000, "%00%ff"):
        url, page = ask(node.app_url("/p/broadcast") + f"?bokeh-session-id={old}", ALICE)
        assert session_in(page) == named(url) != old


def test_another_users_link_makes_a_session_of_their_own(node: Node) -> None:
    url, _ = ask(node.app_url("/p/broadcast"), ALICE)
    other, page = ask(url, BOB)
    assert named(other) != named(url)
    assert session_in(page) == named(other)
    node.wait_for_log("a new one is made for this user")
    assert named(ask(url, {})[0]) != named(url), "a user without a name is another one"
    assert ask(url, ALICE)[0] == url


def test_programs_that_name_a_session_are_answered_as_ever(node: Node) -> None:
    """Unmodified `pull_session` and `server_session`, and a page asked for by header or token."""
    app = node.app_url("/p/broadcast")
    pulled = pull_session(url=app)
    try:
        assert pulled.id in server_session(None, session_id=pulled.id, url=app)
        named_by_header = fetch(app, headers={**ALICE, "Bokeh-Session-Id": pulled.id})
        assert session_in(named_by_header) == pulled.id
        by_token = fetch(f"{app}?bokeh-token={token_of(named_by_header.text)}", headers=ALICE)
        assert session_in(by_token) == pulled.id
    finally:
        pulled.close()


def test_head_makes_no_session(node: Node) -> None:
    before = len(node.sessions())
    assert fetch(node.app_url("/p/broadcast"), "HEAD").status == 200
    assert len(node.sessions()) == before


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_any_worker_and_node_has_the_page_of_the_url(placement: str) -> None:
    """Also as another user's, where the session is elsewhere."""
    with placed(placement, "broadcast.py", "--session-urls", "--user-header", "X-User") as (made, visited):
        url, _ = ask(made.app_url("/broadcast"), ALICE)
        elsewhere = visited.app_url("/broadcast") + "?" + urlsplit(url).query
        found, page = ask(elsewhere, ALICE)
        assert found == elsewhere
        assert session_in(page) == named(url)
        assert named(ask(elsewhere, BOB)[0]) != named(url)


def test_a_bookmark_outlives_its_worker() -> None:
    """Signed ids, an auth module, two nodes, and a kill -9 of the session's worker."""

    async def move(cluster: Cluster, page: Response, cookies: dict[str, str], value: int) -> None:
        async with Viewer.open(cluster.ws_url("/broadcast"), token_of(page.text), cookies) as viewer:
            await viewer.pull()
            assert viewer.value("slider", "value") in (0, 42)
            assert (await viewer.set("slider", "value", value)).msgtype == "OK"

    async def slider(cluster: Cluster, page: Response, cookies: dict[str, str]) -> int:
        async with Viewer.open(cluster.ws_url("/broadcast"), token_of(page.text), cookies) as viewer:
            await viewer.pull()
            value: int = viewer.value("slider", "value")
            return value

    alice, bob = {"Cookie": "user=alice"}, {"Cookie": "user=bob"}
    options = ["--session-urls", "--session-ids", "signed", "--durability", "ack", "--auth-module", app_path("auth.py")]
    with Cluster("broadcast.py", options=options, env={"BOKEH_SECRET_KEY": "k" * 32}) as cluster:
        url, page = ask(cluster.app_url("/broadcast"), alice)
        run(move(cluster, page, alice, 42))
        owner = cluster.owner(named(url))
        owner.node.kill(owner.pid)
        wait_until(lambda: not cluster.owners(named(url)), 20, "its worker is not gone")
        assert named(ask(url, bob)[0]) != named(url), "another user has it, stored as it is"
        found, page = ask(url, alice)
        assert found == url
        assert run(slider(cluster, page, alice)) == 42
        assert fetch(url + "x", headers=alice).status == SEE_OTHER, "a forged id is of a session that is gone"


def test_two_hundred_pages_make_two_hundred_sessions() -> None:
    """Each app ran once, though each page was asked for twice, over two nodes that take turns."""

    async def all_pages(cluster: Cluster) -> list[tuple[str, Response]]:
        gate = asyncio.Semaphore(8)

        async def one() -> tuple[str, Response]:
            async with gate:
                return await asyncio.to_thread(ask, cluster.app_url("/broadcast"))

        return await asyncio.gather(*(one() for _ in range(200)))

    with Cluster("broadcast.py", options=["--session-urls", "--unused-session-lifetime", "600000"]) as cluster:
        pages = run(all_pages(cluster), 120)
        assert [session_in(page) for _, page in pages] == [named(url) for url, _ in pages]
        assert len({named(url) for url, _ in pages}) == 200
        assert sum(len(node.sessions()) for node in cluster.nodes) == 200
