"""A node of several processes in a program, without the processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aperture.config.keywords import plan_of
from aperture.errors import ExitCode
from aperture.gateway.embed import multi_process as outside
from aperture.gateway.embed.multi_process import ServerOutside


class Supervisor:
    """Stands in for one: `before` happens while it has no handlers for signals yet, `after` while it serves."""

    def __init__(self, before: Callable[[], object], after: Callable[[], object]) -> None:
        self._before = before
        self._after = after
        self.signals: list[tuple[int, int]] = []
        self.counts: list[int] = []

    def made(self, sockets: Any, run_worker: object, *, on_ready: Callable[..., None]) -> Supervisor:
        self._sockets, self._on_ready = sockets, on_ready
        return self

    def run(self) -> ExitCode:
        in_another_thread(self._before)
        self.counts.append(len(self.signals))
        self._on_ready(self._sockets.settings, None)
        self.counts.append(len(self.signals))
        in_another_thread(self._after)
        self.counts.append(len(self.signals))
        self._sockets.close()
        return ExitCode.OK


def in_another_thread(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def nothing() -> None:
    """Happens."""


@pytest.mark.parametrize(
    ("early", "late", "counts"), [(True, False, [0, 1, 1]), (False, True, [0, 0, 1]), (True, True, [0, 1, 1])]
)
def test_a_node_that_is_told_to_stop_stops_in_good_order(
    early: bool, late: bool, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal without a handler would end the program on the spot, so it is sent once there is one."""

    def stop() -> None:
        server.stop(wait=False)

    supervisor = Supervisor(stop if early else nothing, stop if late else nothing)
    monkeypatch.setattr(outside, "make_supervisor", supervisor.made)
    monkeypatch.setattr(os, "kill", lambda pid, number: supervisor.signals.append((pid, number)))
    server = ServerOutside(plan_of({"num_procs": 2, "port": 0}, None, on_loop=False), {})
    server.start()
    server.run_until_shutdown()
    assert supervisor.signals == [(os.getpid(), signal.SIGTERM)]
    assert supervisor.counts == counts
