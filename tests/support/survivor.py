"""People with a page of `apps/relayed.py` open, who move its slider all the time and come back when they are cut off.

They follow BokehJS's rules to the letter: the same URL and token, up to five attempts after 0, 2, 4, 8 and 16 seconds,
begun anew when the document has been pulled. What was acknowledged they look for when they are back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from support.cluster import places_of, session_of
from support.onlooker import Onlooker
from support.patience import seconds
from support.wire import ConnectionEnded, page_token
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClosedError

__all__ = ["DELAYS", "Figures", "Survivor", "under_load"]

DELAYS = (0, 2, 4, 8, 16)
"""Seconds before each attempt of BokehJS to reconnect; after the last it asks the user."""

ROUND_TRIP = 60
"""Seconds after which an answer will not come any more."""

READ_LATE = 0.2
"""Seconds that an answer may have waited in a socket of this process."""

AT_ONCE = 8
"""Pages that are opened at the same time."""

PACE = 0.5 if os.environ.get("SURVIVAL_FULL") else 0.05
"""Seconds between an answer and the next move; a hundred that are as fast as sixteen keep a machine from all else."""


@dataclass(slots=True)
class Figures:
    """What happened to all survivors together. Times are in seconds."""

    kills: list[float] = field(default_factory=list)
    """When a worker was taken away."""
    back_after: list[float] = field(default_factory=list)
    """From that to the next working round trip, of each session that was cut off."""
    lost: list[float] = field(default_factory=list)
    """How long before the kill the oldest acknowledged change came that was lost, for each time that one was."""
    moves: int = 0
    slowest: float = 0.0
    """The longest that an answer took which came over a connection that was not cut."""
    stale: int = 0
    """Patches of an owner that another one had followed already, or that had come before."""
    cuts: Counter[str] = field(default_factory=Counter)
    """Why connections ended, as far as these were told."""

    def __str__(self) -> str:
        back = sorted(self.back_after) or [0.0]
        p50, p99 = back[len(back) // 2], back[min(len(back) - 1, len(back) * 99 // 100)]
        worst = max(self.lost, default=0.0)
        return (
            f"{len(self.kills)} kills, {self.moves} moves, {len(self.back_after)} returns: back after p50 {p50:.3f} s, "
            f"p99 {p99:.3f} s, at most {back[-1]:.3f} s; {len(self.lost)} lost acknowledged changes, "
            f"the oldest {worst * 1000:.0f} ms before the kill; {self.stale} stale patches; "
            f"slowest answer {self.slowest:.3f} s; cut off: {dict(self.cuts)}"
        )


class Survivor:
    """One page.

    Args:
        ws_url: of its websocket.
        token: of the page.
        figures: where it counts.
    """

    def __init__(self, ws_url: str, token: str, figures: Figures) -> None:
        self.token = token
        self.connected = asyncio.Event()
        self._url = ws_url
        self._figures = figures
        self._sent = 0
        self._acknowledged: list[tuple[float, int]] = [(0.0, 0)]
        self._cut: float | None = None
        self._stopped = False
        self._epoch = 0
        """The highest that a patch has had."""

    def stop(self) -> None:
        """End after the next round trip that works."""
        self._stopped = True

    async def live(self) -> None:
        """Move the slider until stopped.

        Raises:
            AssertionError: BokehJS would have given up, or the session is not what it was.
        """
        attempt = 0
        reasons: list[object] = []
        while not self._stopped or self._cut is not None:
            assert attempt < len(DELAYS), f"the page gives up: {reasons}"
            if self._cut is not None:
                await asyncio.sleep(DELAYS[attempt])
            attempt += 1
            try:
                async with Onlooker.open(self._url, self.token) as viewer:
                    await viewer.look()
                    attempt = 0
                    self._look(viewer)
                    self.connected.set()
                    try:
                        await self._move_on(viewer)
                    finally:
                        self._look_through(viewer)
            except ConnectionEnded as ended:
                reasons.append(str(ended))
            except (HTTPClientError, WebSocketClosedError, OSError) as refused:
                reasons.append(repr(refused))
            else:
                continue
            if self._cut is None:
                self._cut = time.monotonic()
                self._figures.cuts[str(reasons[-1])] += 1

    def _look(self, viewer: Onlooker) -> None:
        """Compare the document that was pulled with what is known of it."""
        value = viewer.value("slider", "value")
        assert viewer.value("seen", "text") == str(value), "a change is there without what its callback did"
        assert viewer.value("source", "data")["y"][1] == value
        assert value <= self._sent, "a change is there that was not made"
        lost = [when for when, acknowledged in self._acknowledged if acknowledged > value]
        if lost and self._cut is not None:
            # The connection may end long after the kill, as an edge has to find out about it; and what was acknowledged
            # before it may have been read a moment after it.
            kills = [kill for kill in self._figures.kills if lost[0] - READ_LATE <= kill <= self._cut]
            self._figures.lost.append(max(0.0, min(kills, default=lost[0]) - lost[0]))
        self._acknowledged = [(time.monotonic(), value)]

    def _look_through(self, viewer: Onlooker) -> None:
        """Compare the numbers of the patches that a connection has brought with each other, and with those before."""
        latest = self._epoch, 0
        for place in places_of(viewer):
            self._figures.stale += place <= latest
            latest = max(place, latest)
        self._epoch = latest[0]

    async def _move_on(self, viewer: Onlooker) -> None:
        while not self._stopped or self._cut is not None:
            self._sent += 1
            async with asyncio.timeout(seconds(ROUND_TRIP)):
                sent = time.monotonic()
                answer = await viewer.set("slider", "value", self._sent)
                assert answer.msgtype == "OK", answer.content
                acknowledged = time.monotonic()
                self._figures.slowest = max(self._figures.slowest, acknowledged - sent)
                await viewer.wait_for_value("seen", "text", str(self._sent))
            self._acknowledged.append((acknowledged, self._sent))
            self._figures.moves += 1
            if self._cut is not None:
                self._count_return(self._cut)
                self._cut = None
            await asyncio.sleep(PACE)

    def _count_return(self, cut: float) -> None:
        kills = self._figures.kills
        cause = next((kill for kill in reversed(kills) if kill <= cut), cut)
        self._figures.back_after.append(time.monotonic() - cause)


async def under_load(
    url: str, sessions: int, disturb: Callable[[Figures], Awaitable[None]]
) -> tuple[Figures, set[str]]:
    """Disturb a site while people move sliders.

    Args:
        url: of the app's page.
        sessions: how many people.
        disturb: called once all of them move; notes in the figures when it takes something away.

    Returns:
        What happened to them, and their sessions.
    """
    figures = Figures()
    turn = asyncio.Semaphore(AT_ONCE)

    async def open_page() -> Survivor:
        async with turn:
            token = await asyncio.to_thread(page_token, url)
            return Survivor(f"ws{url.removeprefix('http')}/ws", token, figures)

    survivors = await asyncio.gather(*(open_page() for _ in range(sessions)))
    async with asyncio.TaskGroup() as living:
        for survivor in survivors:
            living.create_task(survivor.live())
        for survivor in survivors:
            await survivor.connected.wait()
        await disturb(figures)
        await asyncio.sleep(seconds(1))
        for survivor in survivors:
            survivor.stop()
    return figures, {session_of(survivor.token) for survivor in survivors}
