"""What an open websocket keeps while nothing happens: there may be thousands of them for each session."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import AsyncExitStack

from bokeh.document import Document
from bokeh.models.widgets import Slider
from support.aside import ServerAside
from support.patience import run, wait_until
from support.wire import Viewer, page_token
from tornado.http1connection import HTTP1ServerConnection
from tornado.httputil import HTTPServerRequest

from aperture import Server

KEPT_BY_TORNADO = (HTTPServerRequest, HTTP1ServerConnection)

CHAIN = ("RequestHandler._execute", "WebSocketHandler.get", "WebSocketProtocol13.periodic_ping")
"""Coroutines that would live for as long as the connection."""


def fill(document: Document) -> None:
    """An app."""
    document.add_root(Slider(start=0, end=100, value=0, name="slider"))


def kept() -> dict[int, str]:
    """What of requests is alive in this process, by identity."""
    gc.collect()
    found: dict[int, str] = {}
    for thing in gc.get_objects():
        if type(thing) in KEPT_BY_TORNADO:
            found[id(thing)] = type(thing).__name__
        elif type(thing).__name__ == "coroutine" and thing.__qualname__ in CHAIN:
            found[id(thing)] = thing.__qualname__
    return found


def test_a_websocket_keeps_nothing_of_its_request() -> None:
    """Its HTTP connection, its request and Tornado's coroutines are gone once it is open; one request is its session's.

    They are two thirds of what a connection takes in Bokeh's server.
    """
    with ServerAside(Server, {"/app": fill}, keep_alive_milliseconds=60_000) as aside:
        # Other tests of this process may have left some, as one that has failed does.
        before = aside.call(kept)
        token = page_token(f"{aside.url}/app")

        async def scenario() -> None:
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    viewer = await stack.enter_async_context(Viewer.open(f"{aside.ws_url}/app/ws", token))
                    await viewer.pull()

                def added() -> Counter[str]:
                    return Counter(name for key, name in aside.call(kept).items() if key not in before)

                # The last one's are let go behind the answer that its viewer has had.
                await asyncio.to_thread(wait_until, lambda: sum(added().values()) <= 1)
                assert added() == {"HTTPServerRequest": 1}

        run(scenario())


def test_idle_websockets_are_pinged() -> None:
    """Each of them, again and again, by the interval that is given."""
    with ServerAside(Server, {"/app": fill}, keep_alive_milliseconds=20) as aside:
        token = page_token(f"{aside.url}/app")

        async def scenario() -> None:
            async with AsyncExitStack() as stack:
                heard = []
                for _ in range(3):
                    viewer = await stack.enter_async_context(Viewer.open(f"{aside.ws_url}/app/ws", token))
                    pings: asyncio.Queue[bytes] = asyncio.Queue()
                    viewer._connection.on_ping = pings.put_nowait  # type: ignore[method-assign, assignment]
                    heard.append(pings)
                for _ in range(2):
                    assert [await pings.get() for pings in heard] == [b"", b"", b""]

        run(scenario())
