"""Pages older than their token, while it cannot be found out whether their session lives: put off, never refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.cluster import Cluster, Owner, session_of, steady_viewer
from support.fetch import Response, fetch
from support.node import Node
from support.patience import run, wait_until
from support.wire import ConnectionEnded, Viewer, page_token
from tornado.httpclient import HTTPClientError

from aperture.protocol.closing import SERVICE_RESTART
from aperture.protocol.tokens import Tokens

APP = "/relayed"


@pytest.fixture(params=["none", "ack"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster("relayed.py", options=["--durability", request.param]) as cluster:
        yield cluster


def outdated(session_id: str) -> str:
    """A token of this session whose time is up."""
    return Tokens(None, False, 1).issue(session_id, now=1_000_000)


def page(node: Node, token: str) -> Response:
    return fetch(f"{node.app_url(APP)}?bokeh-token={token}")


async def close_code(node: Node, token: str) -> int | None:
    """What a websocket that comes with this token is closed with, behind the handshake."""
    with pytest.raises(ConnectionEnded) as ended:
        async with Viewer.open(node.ws_url(APP), token):
            pass
    return ended.value.code


def test_without_redis_an_old_page_is_put_off(cluster: Cluster) -> None:
    """Where its session is it comes in; elsewhere the page is a 503 and the websocket closed with 1012, until Redis,
    which comes back empty, knows of the session again. Not one 403 before that."""

    async def scenario() -> None:
        fresh = await asyncio.to_thread(page_token, cluster.app_url(APP))
        owner: Owner = await asyncio.to_thread(cluster.owner, session_of(fresh))
        there, token = cluster.other(owner.node), outdated(session_of(fresh))
        async with steady_viewer(owner.node.ws_url(APP), fresh) as viewer:
            assert (await viewer.set("slider", "value", 7)).msgtype == "OK"
            await asyncio.to_thread(cluster.server.kill)
            await asyncio.to_thread(wait_until, lambda: page(there, token).status != 200, 20)
            answer = await asyncio.to_thread(page, there, token)
            assert (answer.status, answer.headers.get("retry-after")) == (503, "1"), answer
            assert await close_code(there, token) == SERVICE_RESTART
            async with steady_viewer(owner.node.ws_url(APP), token) as again:
                assert again.value("slider", "value") == 7
            await asyncio.to_thread(cluster.server.start)
            statuses = [503]
            while statuses[-1] == 503:
                statuses.append((await asyncio.to_thread(page, there, token)).status)
            assert statuses[-1] == 200
            async with steady_viewer(there.ws_url(APP), token) as elsewhere:
                assert elsewhere.value("slider", "value") == 7

    run(scenario(), 90)


def test_an_old_page_of_no_session_is_refused(cluster: Cluster) -> None:
    """Redis is asked and has none; both on the page and before the handshake."""

    async def scenario() -> None:
        token = outdated("none-such")
        assert (await asyncio.to_thread(page, cluster.nodes[0], token)).status == 403
        with pytest.raises(HTTPClientError) as refused:
            async with Viewer.open(cluster.nodes[0].ws_url(APP), token):
                pass
        assert refused.value.code == 403

    run(scenario())
