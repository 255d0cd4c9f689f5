"""Whose document may be made now, of the viewers of one session that are in other workers.

A crowd that comes at once would fill the queue to Redis, be given up, come back and be given up again. So documents are
made one after the other, each when there is room for it, and each viewer waits for its turn. Those that edges fetch do
not stand in the queue, and have a bound of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["OFFERED_BYTES", "DocumentTurns"]

OFFERED_BYTES = 64 * 1024 * 1024
"""Of documents that edges are fetching, per session, above which no further one is made. An edge fetches one at a time,
so that one that is slow, or dead, does not hold up the others."""

V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Offered:
    """A document that an edge is fetching."""

    edge: str
    transfer: str
    size: int


class DocumentTurns(Generic[V]):
    """The turns of one session's viewers. All calls come from the event loop.

    Args:
        room: whether the queue to Redis has room for a document.
    """

    def __init__(self, room: Callable[[], bool]) -> None:
        self._room = room
        self._making: V | None = None
        """Whose document is being made, or waits for its journal."""
        self._offered: dict[V, _Offered] = {}
        """Documents that are not in the queue, because edges fetch them."""
        self._waiting: dict[V, tuple[str, Callable[[], None]]] = {}
        """Whose turn has not come, with the edge, and what to call when it has."""

    def take(self, viewer: V, edge: str, again: Callable[[], None]) -> bool:
        """Whether the viewer's document may be made now. If not, `again` is called when it had better be asked for."""
        if not self._has_room(edge):
            self._waiting[viewer] = edge, again
            return False
        self._making = viewer
        return True

    def made(self, viewer: V) -> None:
        """The viewer has been answered, or wants no answer any more. Idempotent."""
        if self._making == viewer:
            self._making = None
            self.look_soon()

    def offered(self, viewer: V, edge: str, transfer: str, size: int) -> None:
        """The viewer's edge fetches its document."""
        # One for each edge at a time; so an edge that does not fetch costs the memory of one.
        self._offered[viewer] = _Offered(edge, transfer, size)

    def fetched(self, viewer: V) -> None:
        """The viewer's edge has its document, or does not want it. Idempotent."""
        if self._offered.pop(viewer, None) is not None:
            self.look_soon()

    def leave(self, viewer: V) -> str | None:
        """The viewer wants nothing any more. Returns the name of what its edge has not fetched yet, if there is any."""
        self._waiting.pop(viewer, None)
        offered = self._offered.get(viewer)
        # It is gone and will not fetch: without this, the next document would wait for `OFFER_TIME`.
        self.fetched(viewer)
        self.made(viewer)
        return None if offered is None else offered.transfer

    def look_soon(self) -> None:
        """There may be room for the next."""
        if self._waiting:
            # Not at once: the caller may be in the middle of a hold of this session, or of taking a viewer out.
            asyncio.get_running_loop().call_soon(self._admit_next)

    def _has_room(self, edge: str) -> bool:
        if self._making is not None or not self._room():
            return False
        offered = self._offered.values()
        return sum(other.size for other in offered) < OFFERED_BYTES and all(other.edge != edge for other in offered)

    def _admit_next(self) -> None:
        viewer = next((viewer for viewer, (edge, _) in self._waiting.items() if self._has_room(edge)), None)
        if viewer is not None:
            # One at a time: acting on it may take all the room there is.
            _, again = self._waiting.pop(viewer)
            again()
            self.look_soon()
