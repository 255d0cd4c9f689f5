"""Figures between nodes, over a bus that exists in this test only."""

from __future__ import annotations

import asyncio

import msgpack
import pytest
from support.hub import Hub
from support.patience import run, seconds

from aperture.bus import calls
from aperture.wire.envelopes import Envelope, Figures, Inquire, Probe
from aperture.wire.node_figures import NodeFigures, ProcessFigures
from aperture.worker.dashboard import exchange
from aperture.worker.dashboard.exchange import FigureExchange


class Read:
    def __init__(self, node: str) -> None:
        self.node = node

    async def read(self) -> NodeFigures:
        return NodeFigures(self.node, (ProcessFigures("worker-0", 1.0, {}),))


async def member(hub: Hub, name: str, says: str | None = None) -> FigureExchange:
    made = FigureExchange(hub, name, Read(says or name.split("/")[0]))  # type: ignore[arg-type]
    made.start()
    hub.workers.append(name.encode())
    await asyncio.sleep(0)
    return made


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not turn an answer into silence."""
    monkeypatch.setattr(exchange, "ANSWER_TIME", seconds(30))


def test_one_worker_of_each_other_node_is_asked() -> None:
    """The answer is of the whole node, so one is enough."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        for name in ("a/1/x", "b/0/x", "b/1/x", "c/0/x"):
            await member(hub, name)
        heard = await me.ask()
        assert sorted(node.node for node in heard.nodes) == ["b", "c"]
        assert heard.missing == ()
        asked = [channel for channel, payload in hub.published if isinstance(Envelope.unpack(payload), Inquire)]
        assert asked == [hub.names.figures("b/0/x"), hub.names.figures("c/0/x")]

    run(scenario())


def test_who_does_not_answer_is_missing_and_another_is_asked_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stuck worker does not hide its node."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        hub.workers.append(b"b/0/stuck")
        hub.channels[hub.names.figures("b/0/stuck")] = lambda payload: None
        await member(hub, "b/1/x")
        with monkeypatch.context() as impatient:
            impatient.setattr(exchange, "ANSWER_TIME", 0.02)
            assert (await me.ask()).missing == ("b",)
        heard = await me.ask()
        assert ([node.node for node in heard.nodes], heard.missing) == (["b"], ())

    run(scenario())


def test_a_node_that_counts_nothing_is_not_missing() -> None:
    """It does not listen, and is no reason for an alarm."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        hub.workers.append(b"b/0/x")
        heard = await me.ask()
        assert (heard.nodes, heard.missing) == ((), ())

    run(scenario())


def test_a_bus_that_is_away_is_said_and_raises_nothing() -> None:
    """The node's own figures are shown all the same."""

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        hub.up = False
        heard = await me.ask()
        assert (heard.nodes, heard.bus_up) == ((), False)

    run(scenario())


def test_it_listens_once_the_bus_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may start before Redis does."""
    monkeypatch.setattr(calls, "LISTEN_PAUSE", 0)

    async def scenario() -> None:
        hub = Hub()
        hub.up = False
        other = await member(hub, "b/0/x")
        me = await member(hub, "a/0/x")
        hub.up = True
        while len(hub.channels) < 2:
            await asyncio.sleep(0)
        assert [node.node for node in (await me.ask()).nodes] == ["b"]
        other.stop()
        me.stop()

    run(scenario())


@pytest.mark.parametrize("says", [None, ["garbage"], ["elsewhere", []]], ids=["empty", "garbage", "other"])
def test_an_answer_that_is_none_counts_as_none(says: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither garbage nor another node's figures are shown as the node's."""
    monkeypatch.setattr(exchange, "ANSWER_TIME", 0.02)

    async def scenario() -> None:
        hub = Hub()
        me = await member(hub, "a/0/x")
        hub.workers.append(b"b/0/liar")

        def lie(payload: bytes) -> None:
            inquiry = Envelope.unpack(payload)
            assert isinstance(inquiry, Inquire)
            hub.channels[hub.names.figures("a/0/x")](msgpack.packb([18, inquiry.call, says]))

        hub.channels[hub.names.figures("b/0/liar")] = lie
        assert (await me.ask()).missing == ("b",)

    run(scenario())


def test_strangers_words_are_dropped() -> None:
    """What is no envelope, does not belong there, or answers no request does no harm."""

    async def scenario() -> None:
        hub = Hub()
        hub.workers.append(b"not a name")
        me = await member(hub, "a/0/x")
        deliver = hub.channels[hub.names.figures("a/0/x")]
        for payload in (b"", b"\xc1", Probe(1, 2).pack(), Figures(99, NodeFigures("b", ())).pack()):
            deliver(payload)
        assert (await me.ask()).missing == ()

    run(scenario())
