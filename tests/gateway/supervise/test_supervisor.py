"""In what order a supervisor tells the others, without any of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from aperture.config.settings import Settings
from aperture.gateway.supervise.children import Child
from aperture.gateway.supervise.supervisor import Supervisor
from aperture.wire.endpoint import Endpoint
from aperture.wire.node_messages import Drain, Draining, NodeMessage

Signals = list[tuple[str, signal.Signals]]


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Signals:
    """Which signal was sent to which process; no process gets it."""
    sent: Signals = []
    monkeypatch.setattr(Child, "kill", lambda child, number: sent.append((child.name, number)))
    return sent


@pytest.fixture
def supervisor(signals: Signals) -> Iterator[Supervisor]:
    made = Supervisor(Settings(num_procs=2), [], [], lambda seat: 0, lambda seat: 0)
    children = [*made._workers, made._gateway]
    for child in children:
        child.pid = os.getpid()
    yield made
    for child in children:
        child.pid = None
    made._clean_up()


def test_no_worker_is_told_before_the_gateway_says_that_it_is_unready(supervisor: Supervisor, signals: Signals) -> None:
    """Without a drain delay, too: a client that is closed by a worker finds a node that is not ready."""
    gateway = Endpoint(supervisor._sockets.gateway_control_end)

    def heard() -> list[NodeMessage]:
        return [message for message, _ in gateway.receive()]

    supervisor.handle_term()
    assert heard() == [Drain(closing=False)]
    assert signals == []
    gateway.send(Draining())
    supervisor._handle_gateway()
    assert heard() == [Drain(closing=True)]
    assert signals == [("worker 0", signal.SIGTERM), ("worker 1", signal.SIGTERM)]
    gateway.close()
