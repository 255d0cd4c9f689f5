"""What is done to a site: each fault strikes, lasts, and is healed again.

A fault draws all that it needs from its own seed before it strikes, so that it is the same in a run with fewer others.
Two of them stand alone: a Redis that has lost or refuses what it is given is not promised to survive a worker's death.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from random import Random

from soak.site import LEASE, Site, signal_process
from support.patience import wait_until

__all__ = ["FAULTS", "Fault", "Nothing", "faults_for", "strike"]


class Nothing(Exception):
    """There was nothing to strike: a process is gone already, or its node does not answer."""


Strike = Callable[[Site, int, Random], AbstractAsyncContextManager[None]]
"""Of a site and the number of one of its nodes. The body of the `with` block is the time that the fault lasts."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind.

    Args:
        name: in schedules and reports.
        strike: does it.
        alone: whether no other fault may be there at the same time.
        kills: whether a process of the node ends, of which `async` may lose the last changes.
        needs: what this machine must have for it: `namespaces`, `netem` or nothing.
        lasts: seconds, at least and at most.
        share: how often it is drawn, beside the others.
    """

    name: str
    strike: Strike
    alone: bool = False
    kills: bool = True
    needs: str = ""
    lasts: tuple[float, float] = (0.0, 0.0)
    share: int = 4


# Processes


async def _worker_of(site: Site, number: int, chance: Random) -> int:
    pids = await site.aside(site.workers, number)
    if not pids:
        raise Nothing
    return chance.choice(pids)


async def _gateway_of(site: Site, number: int) -> int:
    try:
        return await site.aside(site.nodes[number].gateway_pid)
    except (AssertionError, OSError, ValueError, KeyError):
        raise Nothing from None


@asynccontextmanager
async def _kill_worker(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    if not signal_process(await _worker_of(site, number, chance), signal.SIGKILL):
        raise Nothing
    yield


@asynccontextmanager
async def _kill_workers(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    """All of a node, one right after the other."""
    pids = await site.aside(site.workers, number)
    if not pids:
        raise Nothing
    for pid in pids:
        signal_process(pid, signal.SIGKILL)
    yield


@asynccontextmanager
async def _kill_gateway(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    if not signal_process(await _gateway_of(site, number), signal.SIGKILL):
        raise Nothing
    yield


@asynccontextmanager
async def _frozen(pid: int) -> AsyncIterator[None]:
    if not signal_process(pid, signal.SIGSTOP):
        raise Nothing
    try:
        yield
    finally:
        signal_process(pid, signal.SIGCONT)


@asynccontextmanager
async def _freeze_worker(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    async with _frozen(await _worker_of(site, number, chance)):
        yield


@asynccontextmanager
async def _freeze_gateway(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    async with _frozen(await _gateway_of(site, number)):
        yield


@asynccontextmanager
async def _freeze_supervisor(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    async with _frozen(site.nodes[number].pid):
        yield


async def _start_again(site: Site, number: int) -> None:
    """A node whose supervisor has ended, or is about to."""

    def start() -> None:
        node = site.nodes[number]
        node.process.wait()
        wait_until(lambda: not node.processes(), 60, "a worker outlives its supervisor")
        site.ended_logs.append(node.start_again(site.plan.workers))

    await site.aside(start)


@asynccontextmanager
async def _kill_supervisor(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    site.nodes[number].process.kill()
    try:
        yield
    finally:
        await _start_again(site, number)


@asynccontextmanager
async def _kill_node(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    """All processes at once, as when a machine loses its power."""
    for pid in await site.aside(site.nodes[number].processes):
        signal_process(pid, signal.SIGKILL)
    try:
        yield
    finally:
        await _start_again(site, number)


# What operators do


@asynccontextmanager
async def _restart(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    site.nodes[number].process.terminate()
    try:
        yield
    finally:
        await _start_again(site, number)


@asynccontextmanager
async def _rolling_restart(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    """Every node in its turn."""
    for each in range(len(site.nodes)):
        async with _restart(site, each, chance):
            pass
    yield


@asynccontextmanager
async def _drain(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    """SIGHUP, as `aperture drain` sends it: new workers replace the old ones."""
    before = set(await site.aside(site.workers, number))
    if not before:
        raise Nothing
    site.nodes[number].process.send_signal(signal.SIGHUP)

    def replaced() -> bool:
        pids = site.workers(number)
        return len(pids) == site.plan.workers and not before & set(pids)

    yield
    await site.aside(wait_until, replaced, 120, "old workers stay after SIGHUP")


@asynccontextmanager
async def _move(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    """Every session of a node that can be, by the admin port."""
    if not await site.aside(site.order_sessions, number, "move"):
        raise Nothing
    yield


# Redis


@asynccontextmanager
async def _kill_redis(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    await site.aside(site.server.kill)
    try:
        yield
    finally:
        await site.aside(site.server.start)


@asynccontextmanager
async def _set_redis_back(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    """It is killed, and comes back with what it had saved a while ago."""
    await site.aside(site.server.save)
    yield
    await site.aside(site.server.kill)
    await site.aside(site.server.start, saved=True)


@asynccontextmanager
async def _fail_over(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    await site.aside(site.fail_over)
    yield


@asynccontextmanager
async def _pause_redis(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    site.server.pause()
    try:
        yield
    finally:
        site.server.resume()


@asynccontextmanager
async def _fill_redis(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    def limit(size: int) -> None:
        with site.redis() as client:
            client.config_set("maxmemory", size)

    await site.aside(limit, 1)
    try:
        yield
    finally:
        await site.aside(limit, 0)


@asynccontextmanager
async def _slow_redis(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    everybody = range(len(site.nodes))
    latency, rate = chance.uniform(0.002, 0.1), chance.choice([0, 200_000, 1_000_000])
    with site.weakened(*everybody):
        site.lines.set(everybody, latency=latency, rate=rate)
        try:
            yield
        finally:
            site.lines.set(everybody)


@asynccontextmanager
async def _cut_from_redis(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    with site.weakened(number):
        site.lines.set([number], chance.choice(["cut", "refused"]))
        try:
            yield
        finally:
            site.lines.set([number])


# Cables


@asynccontextmanager
async def _on_cable(site: Site, number: int, act: Callable[..., None], *arguments: float) -> AsyncIterator[None]:
    assert site.namespaces is not None
    with site.weakened(number):
        await site.aside(act, number, *arguments)
        try:
            yield
        finally:
            await site.aside(site.namespaces.heal, number)


@asynccontextmanager
async def _lose_packets(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    assert site.namespaces is not None
    async with _on_cable(site, number, site.namespaces.lose, chance.uniform(0.005, 0.1)):
        yield


@asynccontextmanager
async def _partition(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    assert site.namespaces is not None
    async with _on_cable(site, number, site.namespaces.cut):
        yield


@asynccontextmanager
async def _reorder(site: Site, number: int, chance: Random) -> AsyncIterator[None]:
    assert site.namespaces is not None
    async with _on_cable(site, number, site.namespaces.reorder, chance.randrange(2, 40)):
        yield


SHORT = (0.2, 2.0)
LONG = (0.5, LEASE * 2.5)
"""Seconds: from a hiccup to more than two leases."""

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill a worker", _kill_worker, share=10),
        Fault("kill a node's workers", _kill_workers),
        Fault("kill a gateway", _kill_gateway, kills=False),
        Fault("kill a supervisor", _kill_supervisor, lasts=SHORT, share=2),
        Fault("kill a node", _kill_node, lasts=SHORT, share=2),
        Fault("freeze a worker", _freeze_worker, lasts=LONG, share=8),
        Fault("freeze a gateway", _freeze_gateway, kills=False, lasts=LONG),
        Fault("freeze a supervisor", _freeze_supervisor, kills=False, lasts=LONG, share=2),
        Fault("restart a node", _restart, share=2),
        Fault("rolling restart", _rolling_restart, share=1),
        Fault("drain (SIGHUP)", _drain),
        Fault("move sessions", _move),
        Fault("kill Redis", _kill_redis, alone=True, kills=False, lasts=LONG),
        Fault("set Redis back", _set_redis_back, alone=True, kills=False, lasts=LONG),
        Fault("fail Redis over", _fail_over, alone=True, kills=False),
        Fault("pause Redis", _pause_redis, kills=False, lasts=LONG),
        Fault("fill Redis", _fill_redis, alone=True, kills=False, lasts=LONG),
        Fault("slow Redis", _slow_redis, kills=False, lasts=LONG),
        Fault("cut from Redis", _cut_from_redis, lasts=LONG, share=6),
        Fault("packet loss", _lose_packets, kills=False, needs="namespaces", lasts=LONG),
        Fault("partition", _partition, needs="namespaces", lasts=LONG, share=6),
        Fault("reordering", _reorder, kills=False, needs="netem", lasts=LONG),
    )
}


def faults_for(site: Site) -> list[Fault]:
    """The kinds that this machine allows, and that the plan wants."""
    have = {"": True, "namespaces": site.namespaces is not None, "netem": site.reorders}
    wanted = site.plan.faults or tuple(FAULTS)
    return [FAULTS[name] for name in wanted if have[FAULTS[name].needs]]


async def strike(fault: Fault, site: Site, number: int, chance: Random, lasts: float) -> None:
    """One fault, from its beginning to its end.

    Raises:
        Nothing: there was nothing to strike.
    """
    async with fault.strike(site, number, chance):
        await asyncio.sleep(lasts)
