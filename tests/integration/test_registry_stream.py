"""Patches on their way to the edges: published in order, kept for those who miss them, refused from strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.patience import run
from support.redis import KINDS, bus_on, eventually, fresh_namespace, node_server

from aperture.bus.redis import RedisBus
from aperture.errors import Fenced
from aperture.registry import stream as module
from aperture.registry.members import WorkerName
from aperture.registry.registry import Appended, Registry


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server as a node starts it for itself."""
    with node_server(request.param) as running:
        yield running


async def owner(bus: RedisBus) -> tuple[Registry, int]:
    """A worker that owns the session `s`, and its epoch."""
    registry = Registry(bus, WorkerName("node", 0, "n"))
    await registry.renew({})
    return registry, (await registry.claim("s", fresh=True)).epoch


def payload(number: int) -> bytes:
    return b"patch %d" % number


def test_patches_reach_the_edges_in_order_and_are_counted(url: str) -> None:
    """Many begun at once, none waiting for another."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            assert await registry.append("s", epoch, 1, 1, payload(1)) == Appended(0)
            got: list[bytes] = []
            await bus.subscribe(bus.names.channel("s"), got.append)
            appends = [registry.append("s", epoch, number, number, payload(number)) for number in range(2, 300)]
            assert set(await asyncio.gather(*appends)) == {Appended(1)}
            await eventually(lambda: len(got) == 298)
            assert got == [payload(number) for number in range(2, 300)]

    run(scenario())


def test_what_was_missed_is_read_from_the_stream(url: str) -> None:
    """From any number on, with patches of several numbers in one."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            await registry.append("s", epoch, 1, 1, b"1")
            await registry.append("s", epoch, 2, 4, b"2-4")
            await registry.append("s", epoch, 5, 5, b"5")
            assert await registry.read("s", 0) == [b"1", b"2-4", b"5"]
            assert await registry.read("s", 1) == [b"2-4", b"5"]
            assert await registry.read("s", 3) == [b"2-4", b"5"]
            assert await registry.read("s", 4) == [b"5"]
            assert await registry.read("s", 5) == []

    run(scenario())


def test_what_is_too_large_for_an_entry_is_kept_in_parts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notice is published for all of it; a repetition is kept once, and what is not whole is not read."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            monkeypatch.setattr(module, "ENTRY_BYTES", 1000)
            got: list[bytes] = []
            await bus.subscribe(bus.names.channel("s"), got.append)
            large = b"".join(b"%07d " % number for number in range(1601))
            for first, last, content in ((1, 1, b"one"), (2, 3, large), (2, 3, large), (4, 4, b"four")):
                await registry.append("s", epoch, first, last, content, b"notice")
            await eventually(lambda: len(got) == 4)
            assert got == [b"one", b"notice", b"notice", b"four"]
            assert await registry.read("s", 0) == [b"one", large, b"four"]
            assert await registry.read("s", 2) == [large, b"four"]
            assert await registry.read("s", 3) == [b"four"]
            await registry.append("s", epoch, 5, 5, large, b"notice")
            await bus.command("XDEL", bus.names.stream("s"), "5-12")
            assert await registry.read("s", 3) == [b"four"]
            await registry.append("s", epoch, 6, 6, b"six")
            assert await registry.read("s", 4) is None

    run(scenario())


def test_a_hole_is_never_read_over(url: str) -> None:
    """All of it or nothing: at the beginning, in the middle, at the end, and where nothing is left at all."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            assert await registry.read("s", 0) is None
            await registry.append("s", epoch, 10, 11, b"10")
            await registry.append("s", epoch, 12, 12, b"12")
            await registry.append("s", epoch, 15, 15, b"15")
            assert await registry.read("s", 8) is None
            assert await registry.read("s", 9) is None
            assert await registry.read("s", 14) == [b"15"]
            assert await registry.read("s", 16) is None

    run(scenario())


def test_a_patch_of_unknown_fate_is_appended_again_without_harm(url: str) -> None:
    """It is published twice, which its number tells, and kept once."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            got: list[bytes] = []
            await bus.subscribe(bus.names.channel("s"), got.append)
            for number in (1, 2, 2, 1, 3):
                await registry.append("s", epoch, number, number, payload(number))
            await eventually(lambda: len(got) == 5)
            assert await registry.read("s", 0) == [payload(1), payload(2), payload(3)]

    run(scenario())


def test_the_stream_is_capped(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, and by size: a session of large patches keeps fewer."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            monkeypatch.setattr(module, "STREAM_ENTRIES", 50)
            for number in range(1, 501):
                await registry.append("s", epoch, number, number, payload(number))
            assert await registry.read("s", 499) == [payload(500)]
            assert await registry.read("s", 460) is not None
            assert await registry.read("s", 100) is None
            monkeypatch.setattr(module, "STREAM_BYTES", 100_000)
            for number in range(501, 521):
                await registry.append("s", epoch, number, number, b"x" * 30_000)
            assert await bus.command("XLEN", bus.names.stream("s")) <= 5
            await registry.append("s", epoch, 521, 521, b"x" * 200_000)
            assert await registry.read("s", 520) == [b"x" * 200_000]
            assert await bus.command("XLEN", bus.names.stream("s")) == 1

    run(scenario())


@pytest.mark.parametrize("patches", [9, 20, 100])
def test_a_large_call_leaves_the_small_ones_before_it(url: str, patches: int) -> None:
    """As after a moment in which Redis was slow: all of it together is far below the cap, so nothing is missing."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            for number in range(1, 201):
                await registry.append("s", epoch, number, number, b"x" * 10_000)
            await registry.append("s", epoch, 201, 200 + patches, b"x" * 10_000 * patches)
            for number in range(201 + patches, 211 + patches):
                await registry.append("s", epoch, number, number, b"x" * 10_000)
            payloads = await registry.read("s", 1)
            assert payloads is not None
            assert len(payloads) == 210

    run(scenario())


def test_mixed_sizes_stay_within_the_cap(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes and entries, with repetitions among them, and from the first patch of a new claim on."""
    monkeypatch.setattr(module, "STREAM_ENTRIES", 64)
    monkeypatch.setattr(module, "STREAM_BYTES", 640_000)

    async def fill(bus: RedisBus, registry: Registry, epoch: int) -> None:
        for number in range(1, 301):
            size = (100, 9_000, 50_000)[number % 3]
            for _ in range(1 + number % 2):
                await registry.append("s", epoch, number, number, b"x" * size)
        entries = await bus.command("XRANGE", bus.names.stream("s"), "-", "+")
        sizes = [len(fields[-1]) for _, fields in entries]
        assert len(sizes) <= 64
        assert 500_000 < sum(sizes) <= 640_000

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            await fill(bus, registry, epoch)
            await registry.release("s", epoch)
            await fill(bus, registry, (await registry.claim("s", fresh=False)).epoch)

    run(scenario())


def test_what_others_have_written_there_is_no_patch(url: str) -> None:
    """An entry without its fields, one with wrong ones, or no stream at all: said as one kind of mistake."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, _ = await owner(bus)
            for session, fields in (("a", ["foo", "bar"]), ("b", ["first", "x", "last", "y", "payload", "z"])):
                await bus.command("XADD", bus.names.stream(session), "5-0", *fields)
                for after in (0, 6):
                    with pytest.raises(ValueError, match=r"\w"):
                        await registry.read(session, after)
            await bus.command("SET", bus.names.stream("c"), "text")
            with pytest.raises(ValueError, match="kind of value"):
                await registry.read("c", 0)

    run(scenario())


def test_a_new_owner_begins_a_new_stream(url: str) -> None:
    """Numbers start again with an epoch; those of the old one would be taken for the new one's."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            await registry.append("s", epoch, 1, 9, b"old")
            await bus.command("ZADD", bus.names.workers, 1, registry.me)
            other = Registry(bus, WorkerName("node", 1, "n"))
            claim = await other.claim("s", fresh=False)
            assert claim.mine
            assert await other.read("s", 0) is None
            await other.append("s", claim.epoch, 1, 1, b"new")
            assert await other.read("s", 0) == [b"new"]

    run(scenario())


def test_what_a_fenced_owner_appends_reaches_nobody(url: str) -> None:
    """Neither the channel nor the stream; the same for a stranger, and for the owner at an old epoch."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry, epoch = await owner(bus)
            got: list[bytes] = []
            await bus.subscribe(bus.names.channel("s"), got.append)
            stranger = Registry(bus, WorkerName("node", 1, "n"))
            for who, at in ((stranger, epoch), (stranger, epoch - 1), (registry, epoch - 1)):
                with pytest.raises(Fenced):
                    await who.append("s", at, 1, 1, b"no")
            await registry.append("s", epoch, 1, 1, b"yes")
            await eventually(lambda: got == [b"yes"])
            assert await registry.read("s", 0) == [b"yes"]

    run(scenario())
