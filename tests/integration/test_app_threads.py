"""App code in threads, over nodes that lose their workers: nothing that was acknowledged is lost, no viewer differs.

`THREADS_OPERATIONS=100000 THREADS_SESSIONS=40 THREADS_FAULT_SECONDS=20` runs it at length.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from contextlib import suppress

from support.node import Node
from support.patience import run, seconds
from support.peers import state_of
from support.wire import ConnectionEnded, Viewer, page_token
from tornado.httpclient import HTTPError
from tornado.websocket import WebSocketClosedError

OPERATIONS = int(os.environ.get("THREADS_OPERATIONS", "1500"))
SESSIONS = int(os.environ.get("THREADS_SESSIONS", "6"))
SEED = int(os.environ.get("THREADS_SEED", "1"))
LOST = (ConnectionEnded, HTTPError, OSError, WebSocketClosedError)
"""What ends a connection whose worker goes away."""

FAULT_EVERY = float(os.environ.get("THREADS_FAULT_SECONDS", "3"))
"""Seconds between two faults."""

OPTIONS = [
    *("--num-procs", "2", "--num-threads", "4", "--durability", "ack", "--lease", "2"),
    *("--unused-session-lifetime", "5000", "--check-unused-sessions", "500"),
]


class Person:
    """One tab: it changes what is its own, clicks, loses its connection and comes back, as BokehJS does."""

    def __init__(self, story: Story, token: str, own: str) -> None:
        self._story = story
        self._token = token
        self._own = own
        self._rng = story.rng
        self.sent = self.acknowledged = 0
        self.clicks_sent = self.clicks_acknowledged = 0
        self.operations = 0

    async def live(self) -> None:
        """Until the story is over."""
        while not self._story.over:
            with suppress(*LOST):
                async with Viewer.open(self._story.node.ws_url("/threaded"), self._token) as viewer:
                    await viewer.pull()
                    self._check(viewer)
                    await self._act(viewer)
            await asyncio.sleep(0.05)

    async def _act(self, viewer: Viewer) -> None:
        stay = self._rng.randrange(20, 400)
        while not self._story.over and stay:
            stay -= 1
            self._story.count += 1
            if self._rng.random() < 0.5:
                self.sent += 1
                answer = await viewer.set(self._own, "value", self.sent)
                assert answer.msgtype == "OK", answer.content
                self.acknowledged = self.sent
            else:
                self.clicks_sent += 1
                answer = await viewer.patch([click_of(viewer)])
                assert answer.msgtype == "OK", answer.content
                self.clicks_acknowledged += 1

    def _check(self, viewer: Viewer) -> None:
        value = viewer.value(self._own, "value")
        assert self.acknowledged <= value <= self.sent, (self._own, self.acknowledged, value, self.sent)


def click_of(viewer: Viewer) -> dict[str, object]:
    event = {
        "type": "event",
        "name": "button_click",
        "values": {"type": "map", "entries": [["model", {"id": viewer.model("button").id}]]},
    }
    return {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}


class Story:
    """All sessions, and what happens to their node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.rng = random.Random(SEED)
        self.count = 0
        self.over = False
        self.faults = 0
        self.killed = 0

    async def tell(self) -> None:
        """From the first page to the comparison of all viewers."""
        tokens = [await asyncio.to_thread(page_token, self.node.app_url("/threaded")) for _ in range(SESSIONS)]
        people = [(Person(self, token, "first"), Person(self, token, "second")) for token in tokens]
        lives = [asyncio.ensure_future(person.live()) for pair in people for person in pair]
        around = asyncio.ensure_future(self._come_and_go())
        faults = asyncio.ensure_future(self._strike())
        while self.count < OPERATIONS:
            await asyncio.wait([*lives, around, faults], timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            for task in (*lives, around, faults):
                if task.done():
                    task.result()
        self.over = True
        await asyncio.gather(*lives, around, faults)
        # All at once: a session that had to wait for its turn would be unused for longer than its lifetime.
        await asyncio.gather(*(self._compare(token, pair) for token, pair in zip(tokens, people, strict=True)))

    async def _come_and_go(self) -> None:
        """Visitors who leave again, so that sessions expire."""
        while not self.over:
            with suppress(*LOST, AssertionError):  # a page may be 503 for a moment
                token = await asyncio.to_thread(page_token, self.node.app_url("/threaded"))
                async with Viewer.open(self.node.ws_url("/threaded"), token) as viewer:
                    await viewer.pull()
                    await viewer.patch([click_of(viewer)])
            await asyncio.sleep(0.2)

    async def _strike(self) -> None:
        while not self.over:
            for _ in range(int(FAULT_EVERY / 0.1)):
                if self.over:
                    return
                await asyncio.sleep(0.1)
            self.faults += 1
            pids = await asyncio.to_thread(self.node.worker_pids)
            if self.faults % 2:
                self.killed += 1
                self.node.kill(self.rng.choice(pids))
            else:
                os.kill(self.node.pid, signal.SIGHUP)  # every worker is drained and replaced

    async def _compare(self, token: str, pair: tuple[Person, Person]) -> None:
        """Two viewers that were there all the time, and one that comes now, see the same once it is quiet."""
        first, second = pair
        async with asyncio.timeout(seconds(60)):
            while True:
                try:
                    await self._compare_now(token, first, second)
                    return
                except LOST:  # a worker is being replaced
                    await asyncio.sleep(0.2)

    async def _compare_now(self, token: str, first: Person, second: Person) -> None:
        url = self.node.ws_url("/threaded")
        async with Viewer.open(url, token) as one, Viewer.open(url, token) as other:
            await one.pull()
            await other.pull()
            await one.set("quiet", "value", 1)
            one.model("quiet").value = 1  # its own change does not come back
            await other.wait_for_value("quiet", "value", 1)
            await asyncio.sleep(0.3)  # timeouts that were due
            for viewer in (one, other):
                await viewer.request("PATCH-DOC", {"events": []})  # all that was sent before has come
            async with Viewer.open(url, token) as late:
                await late.pull()
                assert one.document is not None
                assert other.document is not None
                assert late.document is not None
                assert state_of(one.document) == state_of(other.document) == state_of(late.document)
            for person in (first, second):
                person._check(one)
            clicks = one.value("clicks", "value")
            assert first.clicks_acknowledged + second.clicks_acknowledged <= clicks
            assert clicks <= first.clicks_sent + second.clicks_sent


def test_nothing_acknowledged_is_lost_and_no_viewer_differs() -> None:
    """Changes, clicks, timers and next-tick callbacks from threads, while workers are killed and drained."""
    with Node("threaded.py", options=OPTIONS, env={"APERTURE_LOG_FORMAT": "human"}) as node:
        story = Story(node)
        run(story.tell(), nominal=60 + OPERATIONS / 20)
        log = node.log()
        print(f"{story.count} operations, {story.faults} faults, {story.killed} workers killed")
    failures = re.findall(r"^.*(?: ERROR | CRIT |Traceback|Exception).*$", log, re.MULTILINE)
    # A visitor who comes while a worker stops gets a 503, and comes again.
    assert [line for line in failures if " 503 GET /threaded" not in line] == []
