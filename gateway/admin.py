"""The endpoints for operators: is the node alive, is it ready, which sessions has it, how are its workers.

Runs in the gateway, on its own listening socket, so that none of it is reachable through the app port. Session ids are
secrets, so only their first characters are shown.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

from tornado.web import Application, RequestHandler

from aperture.gateway.exposition import Exposition, MetricsHandler
from aperture.gateway.roster import Roster, Survey
from aperture.handoff import SessionInfo

__all__ = ["admin_application"]

ANSWER_TIME = 1.0
"""Seconds the workers have to say what they have; whoever takes longer is listed as missing."""

SHOWN_ID_LENGTH = 8

ROWS_PER_WRITE = 500
"""Sessions written at once, so that a long list is not held in memory twice, and other connections get their turn."""


def admin_application(roster: Roster, supervisor_pid: int, exposition: Exposition | None = None) -> Application:
    """The admin endpoints as a Tornado application."""
    shared = {"roster": roster, "supervisor_pid": supervisor_pid}
    return Application(
        [
            ("/livez", _Live, shared),
            ("/readyz", _Ready, shared),
            ("/sessions", _Sessions, shared),
            ("/workers", _Workers, shared),
            ("/metrics", MetricsHandler, {"exposition": exposition}),
        ],
        log_function=lambda handler: None,  # probes come every few seconds, for ever
    )


class _AdminHandler(RequestHandler):
    def initialize(self, roster: Roster, supervisor_pid: int) -> None:
        self._roster = roster
        self._supervisor_pid = supervisor_pid

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> None:
        return None  # every answer is about now

    async def head(self) -> None:
        await self.get()

    async def get(self) -> None:
        raise NotImplementedError("each endpoint answers its own")

    def _text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(text)

    def _json(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")


class _Live(_AdminHandler):
    async def get(self) -> None:
        self._text("ok")


class _Ready(_AdminHandler):
    async def get(self) -> None:
        checks = {f"worker-{worker}": worker in self._roster.table.up for worker in self._roster.workers}
        loads = [self._roster.table.load(worker) for worker in self._roster.table.up]
        checks["bus"] = all(load.bus_up for load in loads if load is not None)
        checks["not-draining"] = not self._roster.draining
        ready = all(checks.values())
        self.set_status(200 if ready else 503)
        if "verbose" in self.request.arguments or self.request.query == "verbose":
            lines = [f"[{'+' if passed else '-'}] {name}" for name, passed in checks.items()]
            self._text("\n".join([*lines, "ready" if ready else "not ready", ""]))
        else:
            self._text("ok" if ready else "not ready")


class _Workers(_AdminHandler):
    async def get(self) -> None:
        self._json()
        answer = {
            "workers": [self._row(worker) for worker in self._roster.table.up],
            "gateway": {"pid": os.getpid()},
            "supervisor": {"pid": self._supervisor_pid},
        }
        self.write(json.dumps(answer))

    def _row(self, worker: int) -> dict[str, object]:
        load = self._roster.table.load(worker)
        assert load is not None, "the worker is up"
        return {
            "worker": worker,
            "pid": self._roster.pids.get(worker),
            "sessions": load.sessions,
            "connections": load.connections,
            "event_loop_lag_seconds": load.lag_seconds,
            "rss_bytes": load.rss_bytes,
        }


class _Sessions(_AdminHandler):
    async def get(self) -> None:
        survey = await self._roster.ask(self._roster.table.up, ANSWER_TIME)
        absent = set(self._roster.workers) - set(self._roster.table.up)
        missing = sorted(survey.missing | absent | (set(self._roster.workers) - set(survey.sessions)))
        self._json()
        self.write('{"sessions": [')
        for piece in self._pieces(survey, missing):
            self.write(piece)
            await self.flush()
        self.write(f'], "missing": {json.dumps(missing)}}}')

    def _pieces(self, survey: Survey, missing: list[int]) -> Iterator[str]:
        node, separator = socket.gethostname(), ""
        for worker, sessions in sorted(survey.sessions.items()):
            if worker in missing:
                continue
            pid = self._roster.pids.get(worker)
            for start in range(0, len(sessions), ROWS_PER_WRITE):
                page = sessions[start : start + ROWS_PER_WRITE]
                yield separator + ", ".join(json.dumps(_row(session, node, worker, pid)) for session in page)
                separator = ", "


def _row(session: SessionInfo, node: str, worker: int, pid: int | None) -> dict[str, object]:
    return {
        "id": session.id[:SHOWN_ID_LENGTH],
        "app": session.app,
        "node": node,
        "worker": worker,
        "pid": pid,
        "epoch": session.epoch,
        "connections": session.connections,
        "edges": session.edges,
        "age_seconds": session.age_seconds,
    }
