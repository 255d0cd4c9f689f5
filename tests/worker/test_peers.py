"""What a framework asks the other workers, over a bus that exists in this test only."""

from __future__ import annotations

import asyncio

import pytest
from support.hub import Hub
from support.patience import run, seconds

from aperture.errors import BusDown
from aperture.worker import peers
from aperture.worker.peers import Peers


async def member(hub: Hub, name: str, **topics: bytes) -> Peers:
    made = Peers(hub, name)  # type: ignore[arg-type]
    for topic, answer in topics.items():
        made.answers(topic, lambda answer=answer: answer)  # type: ignore[misc]
    made.start()
    hub.workers.append(name.encode())
    await asyncio.sleep(0)
    return made


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not turn an answer into silence."""
    monkeypatch.setattr(peers, "ANSWER_TIME", seconds(30))


def test_all_others_answer() -> None:
    """Of this node and of others; the one that asks does not ask itself."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x", topic=b"mine")
        for name in ("a/1/x", "b/0/x"):
            await member(hub, name, topic=name.encode(), other=b"no")
        assert sorted(await me.ask("topic")) == [b"a/1/x", b"b/0/x"]

    run(scenario())


def test_who_does_not_answer_is_left_out() -> None:
    """It has just died, and its channel has no subscriber any more."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        await member(hub, "a/1/x", topic=b"here")
        hub.workers.append(b"a/2/dead")
        assert await me.ask("topic") == [b"here"]

    run(scenario())


def test_nobody_is_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker stands still, another serves no such app."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        await member(hub, "a/1/x", other=b"no")
        hub.workers.append(b"a/2/stuck")
        hub.channels[hub.names.questions("a/2/stuck")] = lambda payload: None
        monkeypatch.setattr(peers, "ANSWER_TIME", 0.02)
        assert await me.ask("topic") == []

    run(scenario())


def test_without_redis_there_is_nobody() -> None:
    """The worker that asks shows what it has itself."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        await member(hub, "a/1/x", topic=b"here")
        hub.up = False
        assert await me.ask("topic") == []

    run(scenario())


def test_what_strangers_publish_is_dropped() -> None:
    """The next question is answered all the same."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        await member(hub, "a/1/x", topic=b"here")
        for payload in (b"", b"\xff" * 10, b"\x91\x0e"):
            hub.channels[hub.names.questions("a/1/x")](payload)
        assert await me.ask("topic") == [b"here"]

    run(scenario())


def test_one_of_all_does_what_is_claimed() -> None:
    """The first that asks; what it is called decides."""

    async def scenario() -> None:
        hub = Hub()
        one, other = [await member(hub, name) for name in ("a/0/x", "b/0/x")]
        assert [await peer.claim("mail", 60.0) for peer in (one, other, one)] == [True, False, False]
        assert await other.claim("report", 60.0)

    run(scenario())


def test_a_note_is_for_all() -> None:
    """Also for workers that were not there when it was left."""

    async def scenario() -> None:
        hub = Hub()
        one = await member(hub, "a/0/x")
        assert await one.find("subject") is None
        await one.leave("subject", b"to all", 60.0)
        other = await member(hub, "b/0/x")
        assert [await peer.find("subject") for peer in (one, other)] == [b"to all", b"to all"]
        hub.up = False
        for refused in (one.claim("mail", 60.0), one.find("subject"), one.leave("subject", b"", 60.0)):
            with pytest.raises(BusDown):
                await refused

    run(scenario())
