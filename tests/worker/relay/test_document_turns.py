"""The turns of documents: one is made at a time, where there is room, and who has to wait is called."""

from __future__ import annotations

import asyncio

from support.clock import in_fake_time

from aperture.worker.relay.document_turns import OFFERED_BYTES, DocumentTurns


class Queue:
    """To Redis; has room or has none. And the viewers that were called because it is their turn."""

    def __init__(self) -> None:
        self.room = True
        self.called: list[str] = []
        self.turns = DocumentTurns[str](lambda: self.room)

    def ask(self, viewer: str, edge: str = "edge") -> bool:
        """A viewer wants a document; when it is called it takes its turn."""
        return self.turns.take(viewer, edge, lambda: self._on_turn(viewer, edge))

    def _on_turn(self, viewer: str, edge: str) -> None:
        self.called.append(viewer)
        self.ask(viewer, edge)


async def turn() -> None:
    """Long enough for what is called soon."""
    await asyncio.sleep(0.001)


@in_fake_time
async def test_documents_are_made_one_after_the_other() -> None:
    """In the order in which they were asked for; one that has left is passed over."""
    queue = Queue()
    assert queue.ask("a")
    assert not any(map(queue.ask, "bcd"))
    queue.turns.leave("b")
    queue.turns.made("a")
    await turn()
    assert queue.called == ["c"]
    queue.turns.made("a")  # once more: the turn is another's by now
    await turn()
    assert queue.called == ["c"]
    queue.turns.leave("c")
    await turn()
    assert queue.called == ["c", "d"]


@in_fake_time
async def test_none_is_made_without_room() -> None:
    """Until there is some."""
    queue = Queue()
    queue.room = False
    assert not queue.ask("a")
    queue.turns.look_soon()
    await turn()
    assert queue.called == []
    queue.room = True
    queue.turns.look_soon()
    await turn()
    assert queue.called == ["a"]


@in_fake_time
async def test_an_edge_fetches_one_at_a_time_and_holds_up_no_other() -> None:
    """Nor does one that has left: its document is no longer waited for."""
    queue = Queue()
    assert queue.ask("a", "slow")
    queue.turns.offered("a", "slow", "transfer", 10)
    queue.turns.made("a")
    assert not queue.ask("b", "slow")
    assert queue.ask("c", "fast")
    queue.turns.made("c")
    assert queue.turns.leave("a") == "transfer"
    await turn()
    assert queue.called == ["b"]
    assert queue.turns.leave("b") is None


@in_fake_time
async def test_what_edges_fetch_is_bounded() -> None:
    """All together."""
    queue = Queue()
    queue.turns.offered("a", "one", "transfer", OFFERED_BYTES)
    assert not queue.ask("b", "two")
    queue.turns.fetched("a")
    await turn()
    assert queue.called == ["b"]
