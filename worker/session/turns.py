"""Heavy work that comes in crowds, done one piece to a turn of the event loop.

When a worker dies, its viewers come to the others in one moment, and each session that is built again takes some
10 ms of the event loop. Tasks that become ready together run one after the other with nothing in between: without
turns, two dozen rebuilds would hold up every other viewer, and every timer, for as long as all of them take.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Lets one waiter through per iteration of the event loop, in the order of their coming."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False
        """Whether this iteration's turn has been given, or is about to be."""

    @property
    def taken(self) -> bool:
        """Whether this iteration's turn is taken, so that the next caller would wait."""
        return self._taken

    def note(self) -> None:
        """What was just done, without asking, was heavy enough to be this iteration's turn."""
        if not self._taken:
            self._taken = True
            asyncio.get_running_loop().call_soon(self._next)

    async def take(self) -> None:
        """Return when it is the caller's turn: at once, if this iteration's is free."""
        if not self._taken:
            self.note()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its task may have been cancelled
                turn.set_result(None)
                # The waiter runs in the next iteration, before this is called again in it.
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False
