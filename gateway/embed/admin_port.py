"""The admin endpoints of a server of one process: the gateway's handlers, for the one worker in this process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence

from tornado.httpserver import HTTPServer

from aperture.errors import BusDown
from aperture.gateway.admin.endpoints import admin_application, serve_admin
from aperture.gateway.front.workers import Elsewhere, Survey
from aperture.metrics import render
from aperture.wire.accounts import Command, Outcome
from aperture.wire.node_messages import LoadReport
from aperture.worker.worker import Worker

__all__ = ["admin_server"]

_ONLY = 0
"""The index of the only worker."""


class _OneWorker:
    """Implements `aperture.gateway.admin.inventory.Staff`, and its table, for the worker in this process."""

    draining = False
    workers = range(1)
    up = (_ONLY,)

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.pids = {_ONLY: os.getpid()}

    @property
    def table(self) -> _OneWorker:
        return self

    def last_report(self, worker: int) -> LoadReport | None:
        only = self._worker
        load = only.load(only.lag.seconds)
        return LoadReport(load, 0, only.bus_up, bus_full=only.bus_full, heartbeat_fails=only.heartbeat_fails)

    def overdue(self) -> dict[int, float]:
        """Always empty: if this process hangs, it does not answer requests either."""
        return {_ONLY: 0.0}

    async def ask_elsewhere(self, prefix: str, deadline: float) -> Elsewhere:
        report = Elsewhere()
        try:
            async with asyncio.timeout(deadline):
                async for worker, part in self._worker.operations.others(prefix):
                    report.hear(worker, part)
        except (BusDown, TimeoutError):
            report.away = True
        return report

    async def execute(self, worker: int | str, command: Command, deadline: float) -> Outcome | None:
        try:
            async with asyncio.timeout(deadline):
                return await self._worker.operations.execute(worker if isinstance(worker, str) else "", command)
        except TimeoutError:
            return None

    async def ask(self, workers: Iterable[int], deadline: float) -> Survey:
        survey = Survey(0, set())
        survey.sessions[_ONLY] = self._worker.store.describe()
        return survey


class _OneExposition:
    """`/metrics` of the worker in this process, read on each request."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def answer(self, accept: str) -> tuple[bytes, str] | None:
        measures = self._worker.measures
        return None if measures is None else render(measures.collector, accept)


def admin_server(worker: Worker, listeners: Sequence[socket.socket]) -> HTTPServer | None:
    """Serve the admin endpoints if an admin port is configured; runs on the current loop."""
    if not listeners:
        return None
    exposition = _OneExposition(worker)
    endpoints = admin_application(_OneWorker(worker), os.getpid(), worker.settings, exposition)
    return serve_admin(endpoints, listeners)
