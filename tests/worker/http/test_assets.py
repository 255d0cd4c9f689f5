"""Files on their way out of a worker, which app code waits for."""

from __future__ import annotations

import asyncio

import pytest
from support.peers import in_loop
from support.stored_memory import settled

from aperture.worker.http.assets import Departures


@in_loop
async def test_what_leaves_for_an_address_is_waited_for_and_nothing_else() -> None:
    """Neither what leaves for others nor what has begun since."""
    departures, ends = Departures(), [asyncio.Event() for _ in range(3)]
    left: list[str] = []

    async def leave(address: str, end: asyncio.Event) -> None:
        with departures.leaving(address):
            await end.wait()

    files = [asyncio.ensure_future(leave("here", end)) for end in ends[:2]]
    files.append(asyncio.ensure_future(leave("elsewhere", ends[2])))
    await asyncio.sleep(0)
    departures.when_gone("nowhere", lambda: left.append("none"))
    assert left == ["none"]
    departures.when_gone("here", lambda: left.append("all"))
    later = asyncio.ensure_future(leave("here", ends[2]))
    ends[0].set()
    await files[0]
    await settled()
    assert left == ["none"]
    ends[1].set()
    await files[1]
    await settled()
    assert left == ["none", "all"]
    ends[2].set()
    await asyncio.gather(*files, later)
    assert departures.addresses == set()


@in_loop
async def test_a_file_whose_peer_is_gone_has_left() -> None:
    departures, gone = Departures(), asyncio.Event()
    with pytest.raises(ConnectionError), departures.leaving("here"):
        departures.when_gone("here", gone.set)
        await asyncio.sleep(0)
        raise ConnectionError
    await gone.wait()
    assert departures.addresses == set()
