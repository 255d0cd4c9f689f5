"""`Document.locked_callback`: from any thread, with the lock, every call or the latest."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.models.widgets import Div
from support.patience import seconds
from support.peers import Peer, in_loop, make_session

from aperture.worker.document import locking
from aperture.worker.document.locking import locked_callback


async def settled(document: Any) -> None:
    """All next-tick callbacks so far have run."""
    done = asyncio.Event()
    document.add_next_tick_callback(done.set)
    async with asyncio.timeout(seconds(10)):
        await done.wait()


def from_a_thread(calls: Any) -> None:
    thread = threading.Thread(target=calls)
    thread.start()
    thread.join(seconds(10))


@in_loop
async def test_every_call_runs_in_order() -> None:
    """The changes reach the viewers."""
    said = Div()
    session = make_session(said)
    peer = Peer.pulled(session)
    heard: list[int] = []

    def hear(number: int, *, more: int = 0) -> None:
        heard.append(number)
        said.text = str(number + more)

    call = locked_callback(session.document, hear)

    def calls() -> None:
        for number in range(5):
            call(number, more=10)

    from_a_thread(calls)
    assert heard == []
    await settled(session.document)
    assert heard == [0, 1, 2, 3, 4]
    peer.read()
    assert peer.find(said).text == "14"


@in_loop
async def test_of_those_that_wait_only_the_latest_runs() -> None:
    """And one that comes while it runs runs after it."""
    session = make_session()
    heard: list[int] = []

    @locked_callback(session.document, policy="latest")
    def hear(number: int) -> None:
        heard.append(number)
        if number == 4:
            hear(100)
            hear(101)

    from_a_thread(lambda: [hear(number) for number in range(5)])
    await settled(session.document)
    await settled(session.document)
    assert heard == [4, 101]


@in_loop
async def test_an_async_callback() -> None:
    """It is awaited with the lock, as every async callback is."""
    session = make_session()
    heard: list[bool] = []

    async def hear() -> None:
        await asyncio.sleep(0)
        heard.append(session.held.lock.held)

    for policy in ("every", "latest"):
        from_a_thread(locked_callback(session.document, hear, policy=policy))
    await settled(session.document)
    assert heard == [True, True]


@in_loop
async def test_an_unknown_policy_is_refused() -> None:
    """At once, and not when the first call comes."""
    with pytest.raises(ValueError, match="every"):
        locked_callback(make_session().document, print, policy="first")  # type: ignore[arg-type]


def test_documents_have_it() -> None:
    """Bokeh's own stays where there is one."""
    locking.install()
    document: Any = Document()
    assert callable(document.locked_callback(print))
