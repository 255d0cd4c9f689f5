"""The endpoints for operators: is the node alive, is it ready, which sessions has it, how are its workers.

Runs in the gateway, on its own listening socket, so that none of it is reachable through the app port. Session ids are
secrets, so only their first characters are shown. Who may ask is decided in `aperture.gateway.admin.access`, what there
is in `aperture.gateway.admin.inventory`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from aperture.config.settings import Settings
from aperture.gateway.admin.access import AdminAccess, is_loopback
from aperture.gateway.admin.inventory import Inventory, Place, Staff, WorkerSeen
from aperture.gateway.admin.scrape import Exposition, MetricsHandler
from aperture.wire.accounts import SessionRow

__all__ = ["admin_application", "serve_admin"]

log = logging.getLogger(__name__)

ROWS_PER_WRITE = 500
"""Sessions written at once, so that a long list is not held in memory twice, and other connections get their turn."""

MAX_BODY = 64 * 1024
"""Bytes. Orders are in the path, so no body is needed; it is read before a token is asked for, so from anybody."""

MAX_HEAD = 16 * 1024
"""Bytes; a token, what a proxy adds, and the cookies that a browser has for this host."""

BODY_TIMEOUT = 10.0
"""Seconds in which a body must have come."""

IDLE_TIMEOUT = 150.0
"""Seconds that a connection may wait between two requests, or for the rest of a head: Prometheus keeps its own from one
scrape to the next, and those are seldom more than two minutes apart."""


def admin_application(
    node_workers: Staff, supervisor_pid: int, settings: Settings, exposition: Exposition | None = None
) -> Application:
    """The admin endpoints as a Tornado application."""
    access = AdminAccess(settings.admin_token, is_loopback(settings.admin_address))
    if settings.admin_port is not None and not access.loopback and access.token is None:
        where = settings.admin_address
        log.warning("the admin endpoints listen on %s without a token: whoever reaches them can end sessions", where)
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
        log_function=lambda handler: None,  # probes come every few seconds, for ever
    )


def serve_admin(application: Application, listeners: Iterable[socket.socket]) -> HTTPServer:
    """Serve the admin endpoints on the current loop; what strangers send is bounded before it is looked at."""
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
    """What all endpoints have in common; a token is asked for before anything is said."""

    async def head(self, *arguments: str) -> None:
        await self.get(*arguments)

    async def get(self, *arguments: str) -> None:
        raise NotImplementedError("each endpoint answers its own")

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
        return None  # every answer is about now

    def write_error(self, status_code: int, **details: Any) -> None:
        self.say(status_code, HTTPStatus(status_code).phrase.lower())
        self.finish()

    def say(self, status: int, sentence: str) -> None:
        """Answer with a sentence that a person and a program can read."""
        self.set_status(status)
        self.json()
        self.write(json.dumps({"ok": status < HTTPStatus.BAD_REQUEST, "message": sentence}))

    def text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(text)

    def json(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")


class _Probe(_Endpoint):
    """Answers everybody: who probes has no token, and learns nothing that a token is for."""

    def prepare(self) -> None:
        """Nobody is refused."""


class _Live(_Probe):
    """Alive: the gateway answers, and without the supervisor it would not be there."""

    async def get(self, *arguments: str) -> None:
        self.text("ok")


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
        """Each condition: whether it holds, its name, and what it means if it does not."""
        table = self._node_workers.table
        for worker in self._node_workers.workers:
            yield worker in table.up, f"worker-{worker}", "it has not booted, or has died and is being started again"
        cut_off = [worker for worker in table.up if (load := table.load(worker)) is not None and not load.bus_up]
        who = ", ".join(map(str, cut_off))
        yield not cut_off, "bus", f"cannot be reached by worker {who}"
        full = [worker for worker in table.up if (load := table.load(worker)) is not None and load.bus_full]
        who = ", ".join(map(str, full))
        yield not full, "bus-memory", f"Redis is full (maxmemory): worker {who} can take no new sessions"
        yield not self._node_workers.draining, "not-draining", "the node was told to stop"


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
        """As they last reported: nobody is asked, so nobody keeps this waiting."""
        return {"workers": [_worker_row(worker) for worker in self.node.inventory.reported()]}

    async def _cluster(self) -> dict[str, Any]:
        # An id that no session has: the workers are wanted without their sessions.
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
                return  # whoever asked has seen enough
        ends: dict[str, Any] = {"missing": [place.worker for place in seen.missing if place.name is None]}
        if self.whole_cluster:
            ends |= _gaps(seen.missing, seen.complete) | {"truncated": seen.truncated}
        self.write(f"], {json.dumps(ends)[1:]}")


class _Order(_Listing):
    """`POST /sessions/{id}/end` and `/move`."""

    async def get(self, *arguments: str) -> None:
        self.set_header("Allow", "POST")
        self.say(HTTPStatus.METHOD_NOT_ALLOWED, "this is done by POST")

    async def post(self, session_id: str, action: str) -> None:
        to, app = self.get_query_argument("to", ""), self.get_query_argument("app", None)
        if to and (action != "move" or not to.isdecimal() or len(to) > 4):
            self.say(HTTPStatus.BAD_REQUEST, "?to= is for moving, and names a worker by its number")
        elif len(session_id) < 4:
            self.say(HTTPStatus.BAD_REQUEST, "give eight characters of the session's id")
        else:
            self.say(*await self.node.inventory.order(action, session_id, app, int(to) if to else -1))


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
        "sessions": seen.sessions,
        "connections": seen.connections,
        "event_loop_lag_seconds": seen.lag_seconds,
        "rss_bytes": seen.rss_bytes,
    }


def _session_row(worker: WorkerSeen, row: SessionRow) -> dict[str, object]:
    return asdict(row) | {"node": worker.place.node, "worker": worker.place.worker, "pid": worker.pid}


def _gaps(missing: tuple[Place, ...], complete: bool) -> dict[str, Any]:
    """Who of the cluster has not answered, and whether the other nodes could be asked at all."""
    workers = [{"node": place.node, "worker": place.worker} for place in missing]
    return {"missing_workers": workers, "bus": "up" if complete else "away"}
