"""In what order a supervisor tells the others, without any of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from aperture.config.settings import Settings
from aperture.gateway.supervise.children import Child
from aperture.gateway.supervise.supervisor import Supervisor
from aperture.wire.node_messages import Drain, Draining, Endpoint, Message

Told = list[tuple[str, signal.Signals]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Whom a signal was sent to, and which; nobody gets it."""
    sent: Told = []
    monkeypatch.setattr(Child, "kill", lambda child, number: sent.append((child.name, number)))
    return sent


@pytest.fixture
def supervisor(told: Told) -> Iterator[Supervisor]:
    made = Supervisor(Settings(num_procs=2), [], [], lambda seat: 0, lambda seat: 0)
    children = [*made._workers, made._gateway]
    for child in children:
        child.pid = os.getpid()
    yield made
    for child in children:
        child.pid = None
    made._clean_up()


def test_no_worker_is_told_before_the_gateway_says_that_it_is_unready(supervisor: Supervisor, told: Told) -> None:
    """Without a drain delay, too: whoever is closed by a worker finds a node that is not ready."""
    gateway = Endpoint(supervisor._gateway_control_end)

    def heard() -> list[Message]:
        return [message for message, _ in gateway.receive()]

    supervisor.handle_term()
    assert heard() == [Drain(closing=False)]
    assert told == []
    gateway.send(Draining())
    supervisor._handle_gateway()
    assert heard() == [Drain(closing=True)]
    assert told == [("worker 0", signal.SIGTERM), ("worker 1", signal.SIGTERM)]
    gateway.close()
