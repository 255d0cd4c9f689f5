"""What the bus promises, on a real Redis and on what stands in for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from redis.exceptions import ResponseError
from support.patience import run
from support.redis import KINDS, bus_on, eventually, fresh_namespace, node_server

from aperture.bus.bus import Script
from aperture.errors import BusDown


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server as a node starts it for itself."""
    with node_server(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def real_url() -> Iterator[str]:
    """A real Redis: the stand-in closes a connection after it has answered with an error."""
    with node_server("redis-server") as running:
        yield running


def test_what_is_published_is_delivered_to_all_subscribers_and_counted(url: str) -> None:
    """Bytes of any kind arrive as they were."""

    async def scenario() -> None:
        namespace = fresh_namespace()
        async with bus_on(url, namespace) as one, bus_on(url, namespace) as two:
            got: dict[str, list[bytes]] = {"one": [], "two": []}
            channel = one.names.channel("s")
            await one.subscribe(channel, got["one"].append)
            await two.subscribe(channel, got["two"].append)
            payloads = [b"", b"\r\n\x00\xff", b"x" * 300_000]
            assert [await one.publish(channel, payload) for payload in payloads] == [2, 2, 2]
            await eventually(lambda: got == {"one": payloads, "two": payloads})
            await two.unsubscribe(channel)
            assert await two.publish(channel, b"last") == 1
            await eventually(lambda: got["one"][-1] == b"last")
            assert got["two"] == payloads

    run(scenario())


def test_order_is_kept_over_all_channels(url: str) -> None:
    """Many publishes under way at once, on several channels, are delivered in the order in which they were begun."""

    async def scenario() -> None:
        namespace = fresh_namespace()
        async with bus_on(url, namespace) as sender, bus_on(url, namespace) as receiver:
            got: list[bytes] = []
            channels = [receiver.names.channel(str(index)) for index in range(3)]
            for channel in channels:
                await receiver.subscribe(channel, got.append)
            sent = [str(number).encode() for number in range(600)]
            await asyncio.gather(*(sender.publish(channels[int(text) % 3], text) for text in sent))
            await eventually(lambda: len(got) == len(sent))
            assert got == sent

    run(scenario())


def test_commands_and_scripts_keep_their_order(url: str) -> None:
    """Also the first call of a script, which Redis does not know yet."""

    async def scenario() -> None:
        push = Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
        async with bus_on(url, fresh_namespace()) as bus:
            key = bus.names.session("list")
            calls = [
                bus.run(push, [key], [number]) if number % 3 else bus.command("RPUSH", key, number)
                for number in range(60)
            ]
            assert await asyncio.gather(*calls) == list(range(1, 61))
            assert await bus.command("LRANGE", key, 0, -1) == [str(number).encode() for number in range(60)]

    run(scenario())


def test_a_script_that_redis_has_forgotten_is_sent_again(real_url: str) -> None:
    """Another client has called SCRIPT FLUSH."""

    async def scenario() -> None:
        script = Script("return ARGV[1]")
        async with bus_on(real_url, fresh_namespace()) as bus:
            assert await bus.run(script, [], ["a"]) == b"a"
            await bus.command("SCRIPT", "FLUSH")
            assert await bus.run(script, [], ["b"]) == b"b"

    run(scenario())


def test_an_error_of_redis_is_the_callers_and_nobody_elses(real_url: str) -> None:
    """Those before and after it get their own answers."""

    async def scenario() -> None:
        async with bus_on(real_url, fresh_namespace()) as bus:
            key = bus.names.session("text")
            calls = [bus.command("SET", key, "x"), bus.command("LPUSH", key, "y"), bus.command("GET", key)]
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert done[0] == b"OK"
            assert isinstance(done[1], ResponseError)
            assert done[2] == b"x"
            assert bus.up

    run(scenario())


def test_a_cancelled_call_disturbs_no_other(url: str) -> None:
    """Its answer is taken off the connection all the same."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            tasks = [asyncio.create_task(bus.command("ECHO", str(number))) for number in range(50)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert done[1::2] == [str(number).encode() for number in range(1, 50, 2)]
            assert bus.up
            assert bus.health.reconnects == 0

    run(scenario())


def test_a_channel_has_one_subscriber_and_may_change_it(url: str) -> None:
    """Twice at the same time is a mistake; one after the other is not."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            first: list[bytes] = []
            second: list[bytes] = []
            channel = bus.names.inbox("w")
            await bus.subscribe(channel, first.append)
            with pytest.raises(ValueError, match="subscriber"):
                await bus.subscribe(channel, second.append)
            for _ in range(20):  # leaving and coming in one go
                leaving = asyncio.create_task(bus.unsubscribe(channel))
                await asyncio.sleep(0)
                await bus.subscribe(channel, second.append)
                await leaving
            assert await bus.publish(channel, b"x") == 1
            await eventually(lambda: second == [b"x"])
            assert first == []
            await bus.unsubscribe(channel)
            await bus.unsubscribe(channel)

    run(scenario())


def test_a_subscriber_that_fails_is_logged_once_and_goes_on(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """One bad message must not end a worker's subscriptions."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            got: list[bytes] = []

            def fail(payload: bytes) -> None:
                got.append(payload)
                raise RuntimeError("no")

            await bus.subscribe(bus.names.inbox("w"), fail)
            for _ in range(3):
                await bus.publish(bus.names.inbox("w"), b"x")
            await eventually(lambda: len(got) == 3)
            assert bus.up

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert len(caplog.records) == 1


def test_commands_are_counted_and_pings_are_not(url: str) -> None:
    """So that a test can show what costs nothing."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace(), ping_interval=0.25) as bus:
            assert bus.commands_sent == 0
            await asyncio.sleep(0.8)
            assert bus.commands_sent == 0
            await bus.subscribe("aperture:c", lambda payload: None)
            await bus.publish("aperture:c", b"")
            await bus.command("ECHO", "x")
            await bus.run(Script("return 1"), [], [])
            assert bus.commands_sent == 4

    run(scenario())


def test_closing_ends_everything(url: str) -> None:
    """Idempotent; calls afterwards are refused."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            changes: list[bool] = []
            bus.watch(changes.append)
            waiting = asyncio.create_task(bus.command("BLPOP", bus.names.session("never"), "2"))
            await asyncio.sleep(0.05)
            await bus.close()
            await bus.close()
            with pytest.raises(BusDown):
                await waiting
            with pytest.raises(BusDown):
                await bus.publish("aperture:c", b"")
            with pytest.raises(BusDown):
                await bus.subscribe("aperture:c", lambda payload: None)
            await bus.unsubscribe("aperture:c")
            assert not bus.up
            assert changes == [False]
        assert len(asyncio.all_tasks()) == 1

    run(scenario())
