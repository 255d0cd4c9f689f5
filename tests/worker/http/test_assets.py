"""Files on their way out of a worker, which app code waits for."""

from __future__ import annotations

import asyncio

import pytest
from support.peers import in_loop

from aperture.worker.http.assets import Departures


@in_loop
async def test_what_leaves_for_an_address_is_waited_for_and_nothing_else() -> None:
    """Neither what leaves for others nor what has begun since."""
    departures, ends, left = Departures(), [asyncio.Event() for _ in range(3)], []

    async def leave(address: str, end: asyncio.Event) -> None:
        with departures.leaving(address):
            await end.wait()

    files = [asyncio.ensure_future(leave("here", end)) for end in ends[:2]]
    files.append(asyncio.ensure_future(leave("elsewhere", ends[2])))
    await asyncio.sleep(0)
    await departures.all_gone("nowhere")
    waiting = asyncio.ensure_future(departures.all_gone("here"))
    waiting.add_done_callback(lambda done: left.append("all"))
    await asyncio.sleep(0)
    later = asyncio.ensure_future(leave("here", ends[2]))
    ends[0].set()
    await files[0]
    assert left == []
    ends[1].set()
    await waiting
    ends[2].set()
    await asyncio.gather(*files, later)
    assert departures.addresses == set()


@in_loop
async def test_a_file_whose_peer_is_gone_has_left() -> None:
    """And a page that gives up waiting takes nobody's place."""
    departures = Departures()
    with pytest.raises(ConnectionError), departures.leaving("here"):
        waiting = asyncio.ensure_future(departures.all_gone("here"))
        given_up = asyncio.ensure_future(departures.all_gone("here"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        raise ConnectionError
    await waiting
    assert departures.addresses == set()
