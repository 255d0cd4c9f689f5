"""One line per request and one per websocket's end, with what helps to find a slow page.

Paths come without their query: tokens and session ids ride there, and a log is no place for them.

Each request has an id: the one that a proxy gave it in `X-Request-ID`, or a new one. All lines that are written for the
request carry it, and the answer does, so that a user can tell which request it was that failed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import Application, OutputTransform, RequestHandler

from aperture import tracing
from aperture.log_lines import printable
from aperture.log_scope import REQUEST, SESSION, request_id
from aperture.worker.http.bodies import Bodies

__all__ = ["REQUEST_ID_HEADER", "LoggedApplication", "RequestLine", "Traffic", "log_request", "log_websocket_end"]

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"

_PATH_LIMIT = 500
"""Characters of a path that a line shows."""

_ID, _SPAN = "_aperture_request_id", "_aperture_span"
"""Attributes of Tornado's request."""


class LoggedApplication(Application):
    """A Tornado application whose requests have ids, bounded bodies, and spans if traces are wanted.

    See `tornado.web.Application` for the other arguments.
    """

    def __init__(self, *args: Any, bodies: Bodies, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.transforms.append(_Echo)
        self.bodies = bodies

    @property
    def auth_provider(self) -> object:
        """Bokeh's name for the hooks of logins: handlers that extensions bring along ask for it."""
        return self.settings["auth_hooks"]

    @property
    def prefix(self) -> str:
        """Bokeh's name for what all paths begin with, likewise."""
        prefix: str = self.settings["prefix"]
        return prefix

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Tornado's way from a request to its handler, whose task has the context that is current here."""
        name = request_id(request.headers.get(REQUEST_ID_HEADER))
        setattr(request, _ID, name)
        # Never reset: the connection's next request sets them anew.
        REQUEST.set(name)
        SESSION.set(None)
        if tracing.on:
            setattr(request, _SPAN, tracing.begin_request(request.method or "", request.path, request.headers))
        return super().find_handler(request, **kwargs)

    def get_handler_delegate(
        self, request: HTTPServerRequest, target_class: type[RequestHandler], *args: Any, **kwargs: Any
    ) -> Any:
        """Tornado's delegate for a handler, within the bounds of its route."""
        delegate = super().get_handler_delegate(request, target_class, *args, **kwargs)
        if isinstance(request.connection, HTTP1Connection):
            return self.bodies.bound(delegate, request.connection, target_class)
        return delegate


class _Echo(OutputTransform):
    """Puts the request's id into its answer."""

    def __init__(self, request: HTTPServerRequest) -> None:
        self._id: str | None = getattr(request, _ID, None)

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        if self._id is not None:
            headers[REQUEST_ID_HEADER] = self._id
        return status_code, headers, chunk

    def transform_chunk(self, chunk: bytes, finishing: bool) -> bytes:
        return chunk


def log_request(handler: RequestHandler) -> None:
    """Tornado's `log_function`: status, method, path, client address and milliseconds."""
    request = handler.request
    status = handler.get_status()
    level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
    fields = {"status": status, **_of(request), "milliseconds": round(1000 * request.request_time(), 2)}
    log.log(level, "%d %s %s (%s) %.2fms", *fields.values(), extra=fields)
    span = getattr(request, _SPAN, None)
    if span is not None:
        tracing.end_request(span, status)


@dataclass(frozen=True, slots=True)
class RequestLine:
    """What of a request lines of the log name, for a connection that outlives it."""

    method: str | None
    uri: str | None
    path: str
    remote_ip: str | None

    @classmethod
    def of(cls, request: HTTPServerRequest) -> RequestLine:
        return cls(request.method, request.uri, request.path, request.remote_ip)


@dataclass(slots=True)
class Traffic:
    """What came in over one websocket."""

    messages: int = 0
    bytes: int = 0


def log_websocket_end(
    request: HTTPServerRequest | RequestLine,
    code: int,
    reason: str,
    seconds: float,
    received: Traffic,
    messages_sent: int,
    bytes_sent: int,
) -> None:
    """The line for a websocket that is closed; the one for its opening is that of its request, with status 101.

    Args:
        request: that it began with.
        code: of the closing handshake.
        reason: why this side has closed it; empty where the peer has.
        seconds: that it was open.
        received: from its peer.
        messages_sent: to its peer; what was sent in one piece counts once.
        bytes_sent: of these, frames and all.
    """
    fields = {
        **_of(request),
        "code": code,
        "reason": printable(reason),
        "seconds": round(seconds, 3),
        "messages_in": received.messages,
        "bytes_in": received.bytes,
        "messages_out": messages_sent,
        "bytes_out": bytes_sent,
    }
    log.info(
        "closed %s %s (%s) code %s%s after %.3fs, %d messages with %d bytes in, %d with %d out",
        *(fields | {"reason": reason and f" ({fields['reason']})"}).values(),
        extra=fields,
    )


def _of(request: HTTPServerRequest | RequestLine) -> dict[str, Any]:
    path = printable(request.path)
    return {
        "method": printable(request.method or "?")[:20],
        "path": path if len(path) <= _PATH_LIMIT else path[:_PATH_LIMIT] + "...",
        "client": printable(str(request.remote_ip)),
    }
