"""Many pulls of one state are encoded once, no change between two of them is missed, and nothing is kept for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Div, Slider
from hypothesis import given, settings
from hypothesis import strategies as st
from support.outboxes import PlayedOutbox
from support.patience import run, seconds
from support.peers import in_loop, make_session

from aperture.app_state import session_state
from aperture.protocol.codec import encode_document
from aperture.protocol.frames import FrameRun
from aperture.protocol.messages import FramedDocument, Message
from aperture.worker.patch import pulls as module
from aperture.worker.patch.inbound import receive
from aperture.worker.patch.viewer import Viewer
from aperture.worker.session.session import Session

PULL = Message("m1", "PULL-DOC-REQ", None, {}, {})


class Runs(PlayedOutbox):
    """An outbox that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[FrameRun] = []

    def send(self, run: FrameRun) -> None:
        self.sent.append(run)

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"closed with {code}: {reason}")


def viewer_of(session: Session, *, inline: bool = True) -> Viewer:
    viewer = Viewer(Runs(), "token", inline_pulls=inline)
    session.attach(viewer)
    return viewer


async def pull(session: Session, viewer: Viewer) -> bytes:
    """The answer."""
    work = receive(session, viewer, PULL)
    if work is not None:
        await work
    assert isinstance(viewer.outbox, Runs)
    return viewer.outbox.sent.pop().plain


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each document that was encoded: whether inline."""
    done = []

    def count(document: Any, *, inline: bool) -> Any:
        done.append(inline)
        return encode_document(document, inline=inline)

    monkeypatch.setattr(module, "encode_document", count)
    return done


def source() -> ColumnDataSource:
    """A quarter of a megabyte that no compression makes smaller."""
    return ColumnDataSource({"x": np.random.default_rng(1).normal(size=30_000)}, name="source")


@pytest.mark.parametrize("inline", [True, False])
def test_a_crowd_that_pulls_one_state_has_it_encoded_once(encoded: list[bool], inline: bool) -> None:
    """Each gets the same document in an answer of its own."""

    @in_loop
    async def scenario() -> None:
        session = make_session(source())
        viewers = [viewer_of(session, inline=inline) for _ in range(20)]
        answers = await asyncio.gather(*(pull(session, viewer) for viewer in viewers))
        expected = b"".join(FramedDocument.of(*encode_document(session.document, inline=inline)).parts)
        assert all(answer.endswith(expected) for answer in answers)
        assert len(set(answers)) == len(answers)
        assert encoded == [inline]

    scenario()


@in_loop
async def test_the_two_forms_are_kept_apart() -> None:
    """Binary buffers for first visits, text for pages that come back."""
    session = make_session(source())
    first, again = viewer_of(session, inline=False), viewer_of(session, inline=True)
    for _ in range(2):
        assert b'"num_buffers"' in (await pull(session, first))[:200]
        assert b'"num_buffers"' not in (await pull(session, again))[:200]


@in_loop
async def test_nothing_is_kept_for_a_lone_viewer() -> None:
    """Nearly every session has one, and it pulls once."""
    session = make_session(source())
    await pull(session, viewer_of(session))
    assert session.catch_up.pulls.bytes == 0


def _value(session: Session) -> None:
    _named(session, "slider").value += 1


def _title(session: Session) -> None:
    session.document.title += "."


def _root(session: Session) -> None:
    session.document.add_root(Div(text="another"))


def _in_place(session: Session) -> None:
    """Bokeh hears nothing of it."""
    _named(session, "source").data["x"][0] += 1


def _on_event(session: Session) -> None:
    """Part of the document, and not announced by any event."""
    session.document.js_on_event("document_ready")
    session.document.callbacks._js_event_callbacks.setdefault(f"event{len(session.document.roots)}", [])


def _hold(session: Session) -> None:
    session.document.hold("combine")


def _unhold(session: Session) -> None:
    session.document.unhold()


def _app_value(session: Session) -> None:
    state = session_state(session.document)
    state["n"] = state.get("n", 0) + 1
    _value(session)


def _unlocked(session: Session) -> None:
    """Refused, but the document has changed by then."""
    with pytest.raises(Exception, match="without the lock"):
        _value(session)


def _held_unlocked(session: Session) -> None:
    """No viewer learns of it before it is let go."""
    session.document.hold("combine")
    _value(session)
    session.document.callbacks._hold = None
    session.document.callbacks._held_events.clear()


LOCKED: list[Callable[[Session], None]] = [_value, _title, _root, _in_place, _on_event, _hold, _unhold, _app_value]


def _named(session: Session, name: str) -> Any:
    return session.document.select_one({"name": name})


async def _patched(session: Session, viewer: Viewer) -> None:
    slider = _named(session, "slider")
    change = {"kind": "ModelChanged", "model": {"id": slider.id}, "attr": "value", "new": slider.value + 1}
    receive(session, viewer, Message("m2", "PATCH-DOC", None, {"events": [change]}, {}))
    assert isinstance(viewer.outbox, Runs)
    viewer.outbox.sent.clear()


STEPS = st.lists(st.sampled_from(["pull", "patch", "go", "unlocked", *LOCKED]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans())
def test_no_change_between_two_pulls_is_missed(steps: list[Any], inline: bool) -> None:
    """With and without anybody who has the document, held back, unsequenced, unannounced, without the lock."""

    async def scenario() -> None:
        session = make_session(
            Slider(name="slider", start=0, end=1000, value=0), ColumnDataSource({"x": np.arange(50.0)}, name="source")
        )
        viewers = [viewer_of(session, inline=inline) for _ in range(2)]
        await pull(session, viewers[0])
        for step in steps:
            if step == "patch":
                await _patched(session, viewers[1])
            elif step == "go":
                for viewer in viewers:
                    viewer.live = False
            elif step == "unlocked":
                (_held_unlocked if session.document.callbacks._hold else _unlocked)(session)
            elif step != "pull":
                await session.with_document_locked(step, session)
            expected = b"".join(FramedDocument.of(*encode_document(session.document, inline=inline)).parts)
            for viewer in viewers:
                assert (await pull(session, viewer)).endswith(expected), step
                viewer.outbox.sent.clear()  # type: ignore[attr-defined]

    run(scenario())


@in_loop
async def test_what_is_kept_is_let_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody asking again."""
    monkeypatch.setattr(module, "CACHED_SECONDS", 0.01)
    session = make_session(source())
    viewers = [viewer_of(session), viewer_of(session)]
    await pull(session, viewers[0])
    assert session.catch_up.pulls.bytes > 240_000
    async with asyncio.timeout(seconds(10)):
        while session.catch_up.pulls.bytes:
            await asyncio.sleep(0.01)
    assert not session.catch_up.pulls._cached


@in_loop
async def test_what_is_kept_goes_with_its_session() -> None:
    """Its document is about to be taken apart."""
    session = make_session(source())
    for viewer in (viewer_of(session), viewer_of(session, inline=False)):
        await pull(session, viewer)
    session.destroy()
    assert (session.catch_up.pulls.bytes, session.catch_up.pulls._cached) == (0, {})


@in_loop
async def test_the_oldest_goes_when_all_together_are_too_large(
    monkeypatch: pytest.MonkeyPatch, encoded: list[bool]
) -> None:
    """And what is too large by itself is not kept at all."""
    monkeypatch.setattr(module, "CACHED_BYTES", 700_000)
    session = make_session(source())
    others = [make_session(source()) for _ in range(2)]
    for other in others:
        other.catch_up.pulls = session.catch_up.pulls
    for each in (session, *others):
        viewer_of(each)
        await pull(each, viewer_of(each))
    assert [document for document, _ in session.catch_up.pulls._cached] == [other.document for other in others]
    monkeypatch.setattr(module, "CACHED_BYTES", 100_000)
    session.catch_up.pulls.forget(others[0].document)
    session.catch_up.pulls.forget(others[1].document)
    await pull(session, viewer_of(session))
    assert session.catch_up.pulls.bytes == 0


@in_loop
async def test_large_pulls_take_turns() -> None:
    """Of a crowd that comes in one turn of the loop one is answered in each, and others are served in between."""
    session = make_session(source())
    seen: list[str] = []

    async def one() -> None:
        await pull(session, viewer_of(session))
        seen.append("pull")

    async def another_task() -> None:
        while seen.count("pull") < 5:
            seen.append("-")
            await asyncio.sleep(0)

    await asyncio.gather(*(one() for _ in range(5)), another_task())
    assert "pull pull" not in " ".join(seen)


@in_loop
async def test_a_small_document_waits_for_no_turn() -> None:
    """It costs less than the turn."""
    session = make_session(Div(text="small"))
    for _ in range(3):
        assert receive(session, viewer_of(session), PULL) is None
