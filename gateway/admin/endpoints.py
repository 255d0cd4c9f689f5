"""The admin endpoints: liveness, readiness, sessions, workers, metrics.

Runs in the gateway, on a listening socket of its own, so that none of it can be reached through the app port. Session
ids are secrets, so only their first characters are shown. `aperture.gateway.admin.access` decides who is allowed in,
`aperture.gateway.admin.inventory` collects the answers of the workers.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any, Literal

from msgspec.structs import asdict
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from aperture.config.settings import Settings
from aperture.gateway.admin.access import AdminAccess, is_loopback
from aperture.gateway.admin.inventory import Inventory, Place, Staff, WorkerSeen
from aperture.gateway.admin.scrape import Exposition, MetricsHandler
from aperture.wire.accounts import SessionRow
from aperture.wire.node_messages import LoadReport

__all__ = ["admin_application", "serve_admin"]

log = logging.getLogger(__name__)

ROWS_PER_WRITE = 500
"""Sessions written at once: bounds the memory that a long list takes, and lets other connections run in between."""

MAX_BODY = 64 * 1024
"""Bytes. Commands are in the path, so no body is needed. Bodies are read before the token is checked."""

MAX_HEAD = 16 * 1024
"""Bytes: room for a token, the headers that a proxy adds, and the cookies that a browser has for this host."""

BODY_TIMEOUT = 10.0
"""Seconds in which a body must arrive."""

IDLE_TIMEOUT = 150.0
"""Seconds that a connection may stay idle between requests, or for the rest of a head. Prometheus reuses its connection
from scrape to scrape, and scrape intervals are seldom longer than two minutes."""


def admin_application(
    node_workers: Staff, supervisor_pid: int, settings: Settings, exposition: Exposition | None = None
) -> Application:
    """The admin endpoints as a Tornado application."""
    access = AdminAccess(settings.admin_token, is_loopback(settings.admin_address))
    if settings.admin_port is not None and not access.loopback and access.token is None:
        where = settings.admin_address
        log.warning("the admin endpoints listen on %s without a token: anyone who connects can end sessions", where)
    inventory = Inventory(node_workers, settings.node, has_bus=settings.redis_url is not None)
    node = {"node": _Node(node_workers, supervisor_pid, inventory)}
    return Application(
        [
            ("/livez", _Live),
            ("/readyz", _Ready, node),
            ("/sessions", _Sessions, node),
            ("/sessions/([^/]{1,1024})/(end|move)", _Order, node),
            ("/workers", _Workers, node),
            ("/metrics", _Metrics, {"exposition": exposition}),
        ],
        default_handler_class=_Unknown,
        access=access,
        log_function=lambda handler: None,  # probes come every few seconds and would fill the log
    )


def serve_admin(application: Application, listeners: Iterable[socket.socket]) -> HTTPServer:
    """Serve the admin endpoints on the current loop; heads and bodies are bounded before they are parsed."""
    server = HTTPServer(
        application,
        max_body_size=MAX_BODY,
        max_header_size=MAX_HEAD,
        body_timeout=BODY_TIMEOUT,
        idle_connection_timeout=IDLE_TIMEOUT,
    )
    server.add_sockets(listeners)
    return server


@dataclass(frozen=True, slots=True)
class _Node:
    node_workers: Staff
    supervisor_pid: int
    inventory: Inventory


class _Endpoint(RequestHandler):
    """What all endpoints share: the token is checked before anything is answered."""

    async def head(self, *arguments: str) -> None:
        await self.get(*arguments)

    async def get(self, *arguments: str) -> None:
        raise NotImplementedError("each endpoint implements get")

    def prepare(self) -> None:
        refusal = self.settings["access"].refusal(self.request.method, self.request.headers)
        if refusal is None:
            return
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Bearer realm="aperture"')
        self.say(refusal.status, refusal.reason)
        self.finish()

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> None:
        return None  # answers describe the present moment; a cached one would be wrong

    def write_error(self, status_code: int, **details: Any) -> None:
        self.say(status_code, HTTPStatus(status_code).phrase.lower())
        self.finish()

    def say(self, status: int, sentence: str) -> None:
        """Answer with a sentence that both people and programs can read."""
        self.set_status(status)
        self.json()
        self.write(json.dumps({"ok": status < HTTPStatus.BAD_REQUEST, "message": sentence}))

    def text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(text)

    def json(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")


class _Probe(_Endpoint):
    """Answers without a token: probes have none, and learn nothing that is secret."""

    def prepare(self) -> None:
        """Skips the token check."""


class _Live(_Probe):
    """Liveness: the gateway answers; it cannot outlive the supervisor for long."""

    async def get(self, *arguments: str) -> None:
        self.text("ok")


_TROUBLES: tuple[tuple[str, Callable[[LoadReport], bool], str], ...] = (
    ("bus", lambda report: not report.bus_up, "cannot be reached by worker {}"),
    (
        "bus-memory",
        lambda report: report.bus_full,
        "Redis is full (maxmemory): worker {} can take no new sessions",
    ),
    (
        "heartbeat",
        lambda report: report.heartbeat_fails,
        "that of worker {} fails although Redis answers: its log says why",
    ),
)
"""What workers report of Redis: the name of the check, whether it fails, and what that means for those workers."""


class _Ready(_Probe):
    def initialize(self, node: _Node) -> None:
        self._node_workers = node.node_workers

    async def get(self, *arguments: str) -> None:
        checks = list(self._checks())
        ready = all(passed for passed, _, _ in checks)
        self.set_status(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)
        if "verbose" in self.request.arguments or self.request.query == "verbose":
            lines = [f"[+] {name}" if passed else f"[-] {name}: {why}" for passed, name, why in checks]
            self.text("\n".join([*lines, "ready" if ready else "not ready", ""]))
        else:
            self.text("ok" if ready else "not ready")

    def _checks(self) -> Iterator[tuple[bool, str, str]]:
        """Each condition: whether it holds, its name, and what it means if it does not hold."""
        table = self._node_workers.table
        for worker in self._node_workers.workers:
            yield worker in table.up, f"worker-{worker}", "it has not booted, or has died and is being started again"
        reports = {worker: report for worker in table.up if (report := table.last_report(worker)) is not None}
        for name, is_so, meaning in _TROUBLES:
            who = ", ".join(str(worker) for worker, report in reports.items() if is_so(report))
            yield not who, name, meaning.format(who)
        yield not self._node_workers.draining, "not-draining", "the node is stopping"


class _Listing(_Endpoint):
    def initialize(self, node: _Node) -> None:
        self.node = node

    @property
    def whole_cluster(self) -> bool:
        return self.get_query_argument("cluster", "0").lower() in ("1", "true", "yes")


class _Workers(_Listing):
    async def get(self, *arguments: str) -> None:
        self.json()
        answer = await self._cluster() if self.whole_cluster else self._own()
        node = {"gateway": {"pid": os.getpid()}, "supervisor": {"pid": self.node.supervisor_pid}}
        self.write(json.dumps(answer | node))

    def _own(self) -> dict[str, Any]:
        """As last reported: no worker is asked, so a stuck one delays nothing."""
        return {"workers": [_worker_row(worker) for worker in self.node.inventory.reported()]}

    async def _cluster(self) -> dict[str, Any]:
        # A prefix that no session id has: only the workers are wanted, without their sessions.
        seen = await self.node.inventory.take(cluster=True, prefix="\n")
        return {"workers": [_worker_row(worker) for worker in seen.workers]} | _gaps(seen.missing, seen.complete)


class _Sessions(_Listing):
    async def get(self, *arguments: str) -> None:
        seen = await self.node.inventory.take(cluster=self.whole_cluster)
        self.json()
        self.write('{"sessions": [')
        rows, separator = seen.sessions(), ""
        while page := list(islice(rows, ROWS_PER_WRITE)):
            self.write(separator + ", ".join(json.dumps(_session_row(worker, row)) for worker, row in page))
            separator = ", "
            try:
                await self.flush()
            except StreamClosedError:
                return  # the client has closed the connection
        ends: dict[str, Any] = {"missing": [place.worker for place in seen.missing if place.name is None]}
        if self.whole_cluster:
            ends |= _gaps(seen.missing, seen.complete) | {"truncated": seen.truncated}
        self.write(f"], {json.dumps(ends)[1:]}")


class _Order(_Listing):
    """`POST /sessions/{id}/end` and `/move`."""

    async def get(self, *arguments: str) -> None:
        self.set_header("Allow", "POST")
        self.say(HTTPStatus.METHOD_NOT_ALLOWED, "this is done by POST")

    async def post(self, session_id: str, action: Literal["end", "move"]) -> None:
        to, app = self.get_query_argument("to", ""), self.get_query_argument("app", None)
        if to and (action != "move" or not to.isdecimal() or len(to) > 4):
            self.say(HTTPStatus.BAD_REQUEST, "?to= is for moving, and names a worker by its number")
        elif len(session_id) < 4:
            self.say(HTTPStatus.BAD_REQUEST, "give eight characters of the session's id")
        else:
            outcome = await self.node.inventory.execute(action, session_id, app, int(to) if to else None)
            self.say(outcome.status, outcome.text)


class _Metrics(_Endpoint, MetricsHandler):
    """The node's metrics, behind the token."""

    async def get(self, *arguments: str) -> None:
        await MetricsHandler.get(self)


class _Unknown(_Endpoint):
    async def get(self, *arguments: str) -> None:
        self.say(HTTPStatus.NOT_FOUND, "there is no such endpoint")

    async def post(self, *arguments: str) -> None:
        await self.get()


def _worker_row(seen: WorkerSeen) -> dict[str, object]:
    return {
        "node": seen.place.node,
        "worker": seen.place.worker,
        "pid": seen.pid,
        "sessions": seen.load.sessions,
        "connections": seen.load.connections,
        "event_loop_lag_seconds": seen.load.lag_seconds,
        "rss_bytes": seen.load.rss_bytes,
    }


def _session_row(worker: WorkerSeen, row: SessionRow) -> dict[str, object]:
    return asdict(row) | {"node": worker.place.node, "worker": worker.place.worker, "pid": worker.pid}


def _gaps(missing: tuple[Place, ...], complete: bool) -> dict[str, Any]:
    """The workers that have not answered, and whether the other nodes could be asked at all."""
    workers = [{"node": place.node, "worker": place.worker} for place in missing]
    return {"missing_workers": workers, "bus": "up" if complete else "away"}
