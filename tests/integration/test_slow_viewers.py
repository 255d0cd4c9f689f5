"""Viewers on lines that are slower than the app: they see the latest, hold up no other viewer, and stay connected.

The line carries a megabyte a second, and the app shows pictures of a megabyte and a half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from support.node import Node
from support.patience import run
from support.slow_line import SlowLine
from support.wire import Viewer, page_token

MEGABYTE = 1_000_000


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """With two workers and a limit of two viewers a worker, the slow one is on an edge."""
    options = ["--num-procs", str(request.param), "--spread-viewers", "2", "--viewer-timeout", "3"]
    with Node("pictures.py", options=options) as node:
        yield node


def through(line: SlowLine, url: str) -> str:
    """The same address, behind the line."""
    return urlsplit(url)._replace(netloc=f"127.0.0.1:{line.port}").geturl()


def memory(node: Node) -> int:
    return sum(worker["rss_bytes"] for worker in node.workers())


def numbers(viewer: Viewer) -> list[str]:
    """What a viewer was shown, in order."""
    patches = [message for message in viewer.received if message.msgtype == "PATCH-DOC"]
    return [event["new"] for patch in patches for event in patch.events if event.get("attr") == "text"]


def test_the_last_of_five_pictures_is_shown_without_a_reconnect(node: Node) -> None:
    """The others have it long before, and what waits for the slow one is no more than the pictures under way."""
    token, url = page_token(node.app_url("/pictures")), node.ws_url("/pictures")

    async def scenario(line: SlowLine) -> int:
        async with Viewer.open(url, token) as mover, Viewer.open(url, token) as mate:
            await mover.pull()
            await mate.pull()
            async with Viewer.open(through(line, url), token) as slow:
                await slow.pull()
                before = await asyncio.to_thread(memory, node)
                following = asyncio.create_task(slow.wait_for_value("shown", "text", "5"))
                await mover.set("burst", "value", 5)
                await asyncio.gather(*(viewer.wait_for_value("shown", "text", "5") for viewer in (mover, mate)))
                grown = await asyncio.to_thread(memory, node) - before
                await following
                assert slow.value("picture", "data")["number"] == [5]
                assert [child.text for child in slow.value("titles", "children")] == ["picture 4", "picture 5"]
                return grown

    with SlowLine(node.port, MEGABYTE) as line:
        grown = run(scenario(line), 60)
        assert line.connections == 1
    # A few pictures are with the app, and on their way between two workers.
    assert grown < 16 * MEGABYTE * len(node.workers()), f"memory grew by {grown} bytes"


def test_a_picture_a_second_is_followed_as_the_line_allows(node: Node) -> None:
    """Never disconnected, and always shown one that was new when the line had room for it."""
    token, url = page_token(node.app_url("/pictures")), node.ws_url("/pictures")
    count = 15

    async def scenario(line: SlowLine) -> None:
        async with (
            Viewer.open(url, token) as mover,
            Viewer.open(url, token) as mate,
            Viewer.open(through(line, url), token) as slow,
        ):
            for viewer in (mover, mate, slow):
                await viewer.pull()
            await mover.set("stream", "value", count)
            viewers = (viewer.wait_for_value("shown", "text", str(count)) for viewer in (mover, mate, slow))
            await asyncio.gather(*viewers)
            assert numbers(mate) == [str(number) for number in range(1, count + 1)], "a mate has missed one"
            # The line takes each a second and a half: of those that come meanwhile, the last is shown.
            shown = [int(number) for number in numbers(slow)]
            assert shown == sorted(shown)
            assert len(shown) < count, "each was shown, and so each later than the one before"

    with SlowLine(node.port, MEGABYTE) as line:
        run(scenario(line), 90)
        assert line.connections == 1


def test_a_viewer_that_takes_nothing_is_closed_with_one_line(node: Node) -> None:
    """After --viewer-timeout; it is counted, and no other viewer waits for it."""
    token, url = page_token(node.app_url("/pictures")), node.ws_url("/pictures")
    closed = "viewer has taken nothing for 3 s and is closed"
    lines = node.log().count(closed)

    async def scenario(line: SlowLine) -> None:
        async with Viewer.open(url, token) as mover, Viewer.open(url, token) as mate:
            await mover.pull()
            await mate.pull()
            async with Viewer.open(through(line, url), token) as slow:
                await slow.pull()
                line.block()
                await mover.set("burst", "value", 5)
                await asyncio.gather(*(viewer.wait_for_value("shown", "text", "5") for viewer in (mover, mate)))
                await asyncio.to_thread(node.wait_for_log, closed, lines + 1)
                line.unblock()
                await slow.wait_closed()

    with SlowLine(node.port, 50 * MEGABYTE) as line:
        run(scenario(line), 60)
    assert node.log().count(closed) == lines + 1
