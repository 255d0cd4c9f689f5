"""Random stories of one session: whatever its callbacks do, every viewer ends with the session's document.

A peer decodes all of a message before it applies any of it, as BokehJS and `bokeh.client` do. So a model that is taken
away, changed and brought back in one callback is where an order that looks right is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bokeh.core.serialization import Serializer
from bokeh.core.types import ID
from bokeh.core.validation import silence
from bokeh.core.validation.warnings import EMPTY_LAYOUT
from bokeh.document import Document
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Div, Slider
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.patience import run
from support.peers import Peer, make_session, state_of

from aperture.worker.document.loading import new_document
from aperture.worker.document.snapshot import lay_over, pack_patch, replay, snapshot
from aperture.worker.session.session import Session

silence(EMPTY_LAYOUT, True)

PARTS = 2
"""Columns, and of each kind of model that is put into them."""


class Notes:
    """A journal that keeps what is recorded."""

    writes = True
    acknowledges = False

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def record(self, sequence: int, patch: Any) -> None:
        self.entries.append(pack_patch(patch))

    def start_over(self) -> None:
        raise AssertionError("all of it can be encoded")

    def when_safe(self, act: Callable[[], None], refuse: Callable[[], None]) -> None:
        act()


class Stage:
    """A session, its parts, in the document or not, and two viewers of it.

    Args:
        kept: whether it has a journal.
        watched: whether it has viewers. Without them it may change its structure while it holds it back.
    """

    def __init__(self, *, kept: bool, watched: bool = True) -> None:
        self.watched = watched
        self.columns = [Column(name=f"column {number}") for number in range(PARTS)]
        self.divs = [Div(text="0") for _ in range(PARTS)]
        self.sources = [ColumnDataSource({"x": [0]}) for _ in range(PARTS)]
        # What holds a source, because a column of widgets cannot.
        self.holders = [Div(text="holder", tags=[source]) for source in self.sources]
        self.mover = Slider(start=0, end=1_000_000, value=0)
        self.session: Session = make_session(self.mover, *self.columns)
        self.kept: tuple[bytes, Notes] | None = None
        if kept:
            self.kept = (snapshot(self.session.document), Notes())
            self.session.begin_journal(self.kept[1])
        self.peers = [Peer.pulled(self.session), Peer.pulled(self.session)] if watched else []
        self.count = 0

    def do(self, what: str, which: int, where: int) -> None:
        """One step of a callback."""
        self.count += 1
        document, column = self.session.document, self.columns[where]
        holding = self.watched and document.callbacks.hold_value is not None
        part = (self.divs + self.holders)[which]
        div, source = self.divs[which % PARTS], self.sources[which % PARTS]
        if holding and what in STRUCTURE:
            return  # let go late, a model may be mentioned before it leaves, and bokeh.client misses what came of it
        match what:
            case "set":
                div.text = str(self.count)
            case "retag":
                part.css_classes = [str(self.count)]
            case "stream":
                source.stream({"x": [self.count]}, rollover=5)
            case "patch":
                source.patch({"x": [(0, self.count)]})
            case "replace":
                source.data = {"x": [self.count]}
            case "update":
                source.data["x"] = [self.count] * len(source.data["x"])
            case "put" if part not in column.children:
                column.children = [*column.children, part]
            case "append" if part not in column.children:
                column.children.append(part)
            case "take":
                column.children = [child for child in column.children if child is not part]
            case "clear" | "root" if holding:
                pass  # Bokeh itself tells of roots that are let go late what no peer can follow
            case "clear":
                document.clear()
                for root in (self.mover, *self.columns):
                    document.add_root(root)
            case "root" if column in document.roots:
                document.remove_root(column)
            case "root":
                document.add_root(column)
            case "new":
                column.children = [Div(text=f"new {self.count}"), *column.children[:2]]
            case "bounce":
                column.children = [*column.children, *([] if part in column.children else [part])]
                source.stream({"x": [self.count]})
                div.text = f"loading {self.count}"
                column.children = []
                div.text = f"done {self.count}"
                source.data["x"] = [*source.data["x"], -self.count]
                column.children = [part]
            case "hold":
                document.hold("collect" if where else "combine")
            case "unhold":
                document.unhold()

    def play(self, steps: list[tuple[str, int, int]]) -> None:
        for step in steps:
            self.do(*step)

    async def let_go(self) -> None:
        """Hold nothing back any more; what is let go may run callbacks that hold again."""
        while self.session.document.callbacks.hold_value is not None:
            await self.session.with_document_locked(self.session.document.unhold)

    def look(self) -> None:
        """Every viewer, and who is built again from what was written down, has the document."""
        for peer in self.peers:
            peer.read()
            assert same(peer.document, self.session.document)
        self.look_at_kept()

    def look_at_kept(self) -> None:
        """Who is built again from what was written down has the document, also while viewers get nothing."""
        if self.kept is not None:
            rebuilt = new_document()
            lay_over(rebuilt, self.kept[0])
            for entry in self.kept[1].entries:
                replay(rebuilt, entry)
            assert same(rebuilt, self.session.document)


def same(one: Document, other: Document) -> bool:
    """Whether both hold the same; a default is the same whether it was set or not."""
    return state_of(one) == state_of(other) or values_of(one) == values_of(other)


def values_of(document: Document) -> tuple[list[str], dict[ID, Any]]:
    """The roots, and every property of every model."""
    encoder = Serializer(references=set(document.models))
    values = {model.id: encoder.encode(model.properties_with_values()) for model in document.models}
    return [root.id for root in document.roots], values


KINDS = (
    "set",
    "retag",
    "stream",
    "patch",
    "replace",
    "update",
    "put",
    "append",
    "take",
    "clear",
    "root",
    "new",
    "bounce",
)
STRUCTURE = ("put", "append", "take", "new", "bounce")
STEPS = st.tuples(st.sampled_from([*KINDS, "hold", "unhold"]), st.integers(0, 2 * PARTS - 1), st.integers(0, PARTS - 1))
CALLBACKS = st.lists(st.lists(STEPS, min_size=1, max_size=8), min_size=1, max_size=4)


@settings(max_examples=60)
@given(CALLBACKS, st.booleans())
def test_everybody_ends_with_the_sessions_document(callbacks: list[list[tuple[str, int, int]]], kept: bool) -> None:
    """Whatever callbacks do, with a journal and without."""

    async def tell() -> None:
        stage = Stage(kept=kept)
        for steps in callbacks:
            await stage.session.with_document_locked(stage.play, steps)
            stage.look_at_kept()
        await stage.let_go()
        stage.look()

    run(tell())


@settings(max_examples=40)
@given(CALLBACKS)
def test_so_does_a_viewer_whose_changes_cause_it(callbacks: list[list[tuple[str, int, int]]]) -> None:
    """It has its own change already, and gets the results of it."""

    async def tell() -> None:
        stage = Stage(kept=False)
        moved = iter(callbacks)
        stage.mover.on_change("value", lambda attr, old, new: stage.play(next(moved)))
        first = stage.peers[0]
        for value in range(len(callbacks)):
            first.change(lambda value=value: first.find(stage.mover).update(value=value + 1))  # type: ignore[misc]
            first.read()
        await stage.let_go()
        stage.look()

    run(tell())


@settings(max_examples=60)
@given(CALLBACKS)
def test_what_is_written_down_is_the_document_whatever_is_held_back(
    callbacks: list[list[tuple[str, int, int]]],
) -> None:
    """After each callback, models that come and go among it: a worker killed then loses nothing."""

    async def tell() -> None:
        stage = Stage(kept=True, watched=False)
        for steps in callbacks:
            await stage.session.with_document_locked(stage.play, [("hold", 0, 0), *steps])
            stage.look_at_kept()
        await stage.let_go()
        stage.look_at_kept()

    run(tell())


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(CALLBACKS.map(lambda callbacks: callbacks[0]), st.sampled_from(["fill", "drain", "read", ""])),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
)
@example(story=[([("set", 0, 0)], "fill"), ([("bounce", 1, 0), ("put", 1, 1), ("root", 0, 0)], "fill")], kept=False)
def test_so_does_a_viewer_that_reads_slowly(story: list[tuple[list[tuple[str, int, int]], str]], kept: bool) -> None:
    """Its socket fills and drains between the callbacks; the other viewer does not notice."""

    async def tell() -> None:
        stage = Stage(kept=kept)
        slow = stage.peers[1]
        for steps, then in story:
            await stage.session.with_document_locked(stage.play, steps)
            match then:
                case "fill":
                    slow.mailbox.fill()
                case "drain":
                    slow.mailbox.drain()
                    await refreshed(stage.session)
                case "read":
                    slow.read()
        await stage.let_go()
        slow.mailbox.drain()
        await refreshed(stage.session)
        stage.look()
        assert not slow.mailbox.behind
        assert stage.session.fanout.log.since is None

    run(tell())


async def refreshed(session: Session) -> None:
    """Wait until no viewer whose socket has drained is behind."""
    while session.catch_up.refreshing:
        await asyncio.sleep(0)
