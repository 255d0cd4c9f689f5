"""App code that does not come back: in a thread it costs its own session, on the event loop its worker at most."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bokeh.document import Document
from bokeh.models.widgets import Slider
from support.fetch import fetch
from support.node import Node
from support.patience import run, seconds
from support.wire import ConnectionEnded, Viewer, page_token
from tornado.httpclient import HTTPError

from aperture import Server

BACK_AGAIN = (ConnectionEnded, HTTPError, OSError)
HEADERS = {"X-Aperture": "1"}
KEPT = ["--num-procs", "2", "--durability", "ack"]


async def begin(node: Node) -> tuple[str, Viewer, contextlib.AsyncExitStack]:
    token = await asyncio.to_thread(page_token, node.app_url("/staying"))
    stack = contextlib.AsyncExitStack()
    viewer = await stack.enter_async_context(Viewer.open(node.ws_url("/staying"), token))
    await viewer.pull()
    return token, viewer, stack


async def start_stay(viewer: Viewer, how: int) -> None:
    """Set off a callback without waiting for its end."""
    await viewer.send_patch(
        [{"kind": "ModelChanged", "model": {"id": viewer.model("stay").id}, "attr": "value", "new": how}]
    )


async def value_again(node: Node, token: str) -> int:
    """What a page that reconnects finds."""
    async with asyncio.timeout(seconds(30)):
        while True:
            with contextlib.suppress(*BACK_AGAIN):
                async with Viewer.open(node.ws_url("/staying"), token) as viewer:
                    await viewer.pull()
                    value: int = viewer.value("value", "value")
                    return value
            await asyncio.sleep(0.1)


def test_a_thread_that_never_comes_back() -> None:
    """Others go on, new visitors come, the log names the line; a drained worker leaves it and moves the others."""
    with Node("staying.py", options=[*KEPT, "--num-threads", "1", "--shutdown-grace", "6"]) as node:

        async def scene() -> None:
            people = [await begin(node) for _ in range(4)]
            for number, (_, viewer, _) in enumerate(people):
                assert (await viewer.set("value", "value", 10 + number)).msgtype == "OK"
            stuck = people[0]
            await start_stay(stuck[1], 1)
            await asyncio.to_thread(node.wait_for_log, r"now at \S+staying.py:\d+ in never_come_back")
            assert (await asyncio.to_thread(fetch, node.app_url("/staying"))).status == 200
            for number, (_, viewer, _) in enumerate(people[1:], 1):
                if await _shares_its_worker(viewer):
                    continue
                assert (await viewer.set("value", "value", 60 + number)).msgtype == "OK"
            before = set(node.worker_pids())
            node.process.send_signal(signal.SIGHUP)
            values = await asyncio.gather(*(value_again(node, token) for token, _, _ in people))
            assert [value % 50 for value in values] == [10, 11, 12, 13]
            await asyncio.to_thread(
                node.wait_for_log, "app code of session .* has not come back: its on_session_destroyed hooks", 1, 30
            )
            async with asyncio.timeout(seconds(40)):
                while not before.isdisjoint(await asyncio.to_thread(node.worker_pids)):
                    await asyncio.sleep(0.2)
            for _, _, stack in people:
                await stack.aclose()

        async def _shares_its_worker(viewer: Viewer) -> bool:
            """The only thread of that worker is taken: its sessions wait for it."""
            try:
                async with asyncio.timeout(seconds(0.5)):
                    await viewer.set("said", "name", "said")
            except TimeoutError:
                return True
            return False

        run(scene(), 90)
        assert "Traceback" not in node.log()


def test_a_session_ends_when_its_thread_has_come_back() -> None:
    """An operator ends it meanwhile: its viewers go at once, its hooks run after the callback, and nothing fails."""
    with Node("staying.py", options=["--num-threads", "2"]) as node:

        async def scene() -> None:
            _, viewer, stack = await begin(node)
            await start_stay(viewer, 6000)
            (session,) = await asyncio.to_thread(node.sessions)
            answer = await asyncio.to_thread(fetch, f"{node.admin_url}/sessions/{session['id']}/end", "POST", HEADERS)
            assert answer.status in (200, 202, 204), answer.text
            assert await viewer.wait_closed() == 1000
            assert not node.sessions()
            await asyncio.to_thread(node.wait_for_log, "ends when its app code comes back")
            await asyncio.to_thread(node.wait_for_log, "destroyed")
            await stack.aclose()

        run(scene())
        assert "Traceback" not in node.log()


def test_a_loop_that_is_stuck_ends_its_worker() -> None:
    """Without threads: the log has the line, and the other sessions of the worker are back with their state."""
    with Node("staying.py", options=[*KEPT, "--max-callback-seconds", "2"]) as node:

        async def scene() -> None:
            people = [await begin(node) for _ in range(4)]
            for number, (_, viewer, _) in enumerate(people):
                assert (await viewer.set("value", "value", 10 + number)).msgtype == "OK"
            await start_stay(people[0][1], 2)
            await asyncio.to_thread(node.wait_for_log, r"now at \S+staying.py:\d+ in compute_for_ever")
            await asyncio.to_thread(node.wait_for_log, "was stuck, and is killed")
            await asyncio.to_thread(node.wait_for_log, r'staying.py", line \d+ in compute_for_ever')
            values = await asyncio.gather(*(value_again(node, token) for token, _, _ in people[1:]))
            assert values == [11, 12, 13]
            for _, _, stack in people:
                await stack.aclose()

        run(scene(), 90)


def test_a_script_that_never_ends_in_a_thread() -> None:
    """It keeps every new visitor of its worker out, so that worker is stuck, too."""
    options = ["--num-threads", "2", "--max-callback-seconds", "2"]
    with Node("staying.py", options=options) as node, ThreadPoolExecutor(1) as aside:
        (before,) = node.worker_pids()
        asked = aside.submit(fetch, node.app_url("/staying") + "?forever=1")
        node.wait_for_log("was stuck, and is killed")
        node.wait_for_log(r'staying.py", line \d+ in compute_for_ever')
        with contextlib.suppress(OSError, AssertionError):
            asked.result(seconds(30))
        node.wait_for_log("worker 0 serves", 2)
        assert node.worker_pids() != [before]
        assert page_token(node.app_url("/staying"))


@contextlib.asynccontextmanager
async def staying(node: Node) -> AsyncIterator[Viewer]:
    """A viewer of a session whose script has not left."""
    token = await asyncio.to_thread(page_token, node.app_url("/exiting") + "?stay=1")
    async with Viewer.open(node.ws_url("/exiting"), token) as viewer:
        await viewer.pull()
        yield viewer


@pytest.mark.parametrize("threads", ["0", "2"])
def test_an_app_that_leaves_ends_nothing_else(threads: str) -> None:
    """`sys.exit()` in a script is that page's 500, in a callback that change's error; the worker goes on."""
    with Node("exiting.py", options=["--num-threads", threads]) as node:
        before = node.worker_pids()

        async def scene() -> None:
            async with staying(node) as viewer:
                assert (await asyncio.to_thread(fetch, node.app_url("/exiting"))).status == 500
                assert (await viewer.set("value", "value", 9)).msgtype == "ERROR"
                assert (await viewer.set("value", "value", 5)).msgtype == "OK"

        run(scene())
        assert node.worker_pids() == before
        assert node.log().count("SystemExit: ") == 2


@pytest.mark.parametrize("threads", ["0", "2"])
def test_an_app_that_leaves_the_event_loop_ends_nothing_else(threads: str) -> None:
    """`sys.exit()` in a task, or in a callback of the loop, that an app has begun itself; and the loop's own `stop`."""
    with Node("exiting.py", options=["--num-threads", threads]) as node:
        before = node.worker_pids()

        async def scene() -> None:
            async with staying(node) as viewer:
                raised, stopped = "raised SystemExit on the event loop", "stopped the event loop"
                for value, what, count in ((8, raised, 1), (7, raised, 2), (6, stopped, 1)):
                    assert (await viewer.set("value", "value", value)).msgtype == "OK"
                    await asyncio.to_thread(node.wait_for_log, f"app code has {what}, which goes on", count)
                    assert (await viewer.set("value", "value", 5)).msgtype == "OK"

        run(scene())
        assert node.worker_pids() == before


def test_a_server_inside_of_a_program() -> None:
    """`Server(num_threads=2)`: one session's callback waits, another's is answered; `stop` does not wait for ever."""

    def stay_at_nine(attr: str, old: object, new: object) -> None:
        if new == 9:
            threading.Event().wait()

    def fill(document: Document) -> None:
        slider = Slider(start=0, end=10, value=0, name="value")
        slider.on_change("value", stay_at_nine)
        document.add_root(slider)

    async def scene() -> None:
        async with Server(
            {"/app": fill}, port=0, num_threads=2, shutdown_grace=2, allow_websocket_origin=["*"]
        ) as server:
            address = f"localhost:{server.port}/app"
            viewers = contextlib.AsyncExitStack()
            async with viewers:
                one, other = [
                    await viewers.enter_async_context(
                        Viewer.open(f"ws://{address}/ws", await asyncio.to_thread(page_token, f"http://{address}"))
                    )
                    for _ in range(2)
                ]
                await one.pull()
                await other.pull()
                await one.send_patch(
                    [{"kind": "ModelChanged", "model": {"id": one.model("value").id}, "attr": "value", "new": 9}]
                )
                assert (await other.set("value", "value", 5)).msgtype == "OK"
                assert len(server.get_sessions()) == 2

    run(scene())
