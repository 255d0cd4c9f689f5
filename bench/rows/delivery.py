"""Patches delivered to the viewers of one session.

An app changes its document in a chain of next-tick callbacks, one patch each; a turn ends when the last viewer has
read the last patch, so what was queued on the way counts. The limit writes as many messages of the same size with
nothing but `socket.send`, to as many sockets, for the same readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import client
from client import Delivery, Loader
from limits import bare
from servers import OURS, STOCK, Server, serve

from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]

LIMIT = "socket.send"
TURN_SECONDS = 0.8
FIRST_PATCHES = 8
MOST_BYTES = 600_000_000
"""Through the loopback interface in one turn."""

SMALL = {viewers: f"deliver-{viewers}" for viewers in (1, 10, 100, 1000)}
LARGE_VIEWERS = 50
LARGE = f"deliver-28k-{LARGE_VIEWERS}"

SPARE = "deliver-100-spare"
SPARE_VIEWERS = 100

_TARGETS = {1: Target(faster=2), 100: Target(faster=20, of_limit=1 / 3)}
ROWS = (
    *(
        Row(
            name,
            f"small patches delivered, {viewers:,} viewer{'s' * (viewers > 1)}",
            "/s",
            _TARGETS.get(viewers, Target()),
            limit=LIMIT,
        )
        for viewers, name in SMALL.items()
    ),
    Row(SPARE, f"the same, {SPARE_VIEWERS} viewers, only 5 models", "/s", limit=LIMIT),
    Row(LARGE, f"28 KB patches delivered, {LARGE_VIEWERS} viewers", "/s", Target(faster=25), limit=LIMIT),
)


class _Arena:
    """Both servers, the bare sender, and the readers of all three."""

    def __init__(self, stack: ExitStack) -> None:
        self._markers = map("END-{:05}".format, count())
        self.loader = stack.enter_context(Loader())
        self.servers = [stack.enter_context(serve(kind, "fanout")) for kind in (STOCK, OURS)]
        self._bare_port = stack.enter_context(bare("send"))
        self._patches: dict[tuple[str, str, int], int] = {}

    def measure(self, row: Row, kind: str, viewers: int, plan: Plan) -> Result:
        """Give each its turns. All viewers of all three are connected all the time."""
        result = Result(row)
        size = 0
        for server in self.servers:
            self._fill(server, kind, viewers)
        self.loader.call(client.open_plain, self._group("bare", kind), self._bare_port, viewers)
        for turn in range(plan.repeat + 1):
            for server in self.servers:
                group = self._group(server.kind, kind)
                got = self._turn(group, kind, viewers, plan)
                if turn:
                    (result.ours if server.kind is OURS else result.stock).append(got.rate)
                if server.kind is OURS:
                    size = got.size // got.patches
            bare_rate = self._bare_turn(kind, viewers, size, plan)
            if turn:
                result.limit.append(bare_rate)
        result.note = f"{size:,} bytes a patch"
        return result

    def finish(self, kind: str) -> None:
        """Close what a kind of patch was measured with."""
        for server in self.servers:
            self.loader.call(client.close_all, self._group(server.kind, kind))
        self.loader.call(client.close_all, self._group("bare", kind))

    def _fill(self, server: Server, kind: str, viewers: int) -> None:
        group = self._group(server.kind, kind)
        self.loader.call(client.open_viewers, group, server.port, "/fanout", viewers, session=f"{kind}-session")

    def _turn(self, group: str, kind: str, viewers: int, plan: Plan) -> Delivery:
        patches = self._patches.get((group, kind, viewers), FIRST_PATCHES)
        got: Delivery = self.loader.call(client.deliver, group, kind, patches, next(self._markers).encode())
        self._plan_next((group, kind, viewers), patches, got, plan)
        return got

    def _bare_turn(self, kind: str, viewers: int, size: int, plan: Plan) -> float:
        group = self._group("bare", kind)
        patches = self._patches.get((group, kind, viewers), FIRST_PATCHES)
        got: Delivery = self.loader.call(client.deliver_plain, group, size, patches, next(self._markers).encode())
        self._plan_next((group, kind, viewers), patches, got, plan)
        return got.rate

    def _plan_next(self, key: tuple[str, str, int], patches: int, got: Delivery, plan: Plan) -> None:
        """As many patches as a turn has time for, judged by the last one."""
        fitting = int(patches / got.seconds * plan.seconds(TURN_SECONDS))
        affordable = MOST_BYTES // max(1, got.size // patches)
        self._patches[key] = max(FIRST_PATCHES, min(fitting, affordable, patches * 50))

    @staticmethod
    def _group(server: str, kind: str) -> str:
        return f"{server} {kind}"


def measure(plan: Plan) -> Iterator[Result]:
    with ExitStack() as stack:
        arena = _Arena(stack)
        by_name = {row.name: row for row in ROWS}
        for viewers, name in SMALL.items():
            if name in plan.rows:
                yield arena.measure(by_name[name], "small", viewers, plan)
        arena.finish("small")
        for name, kind, viewers in ((SPARE, "small-alone", SPARE_VIEWERS), (LARGE, "large", LARGE_VIEWERS)):
            if name in plan.rows:
                yield arena.measure(by_name[name], kind, viewers, plan)
                arena.finish(kind)


GROUP = Group(ROWS, measure)
