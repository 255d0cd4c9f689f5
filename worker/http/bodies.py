"""What bodies may hold of a worker: by route, and all of them together.

Tornado reads a body before it asks the handler, up to 100 MB for any path. The routes of Aperture read small forms at
most. Those of an app, an auth module or an extension take what Tornado's would, within a bound on all that is on its
way: above it the connection is closed that has sent nothing for the longest time, so that peers who withhold their last
byte shut no others out.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import ErrorHandler, RedirectHandler, RequestHandler, StaticFileHandler

__all__ = ["BODY_TIME", "MAX_BODY", "Bodies", "has_body", "takes_bodies"]

MAX_BODY = 100 * 1024 * 1024
"""Bytes of one body for a route that is not ours: Tornado's own bound, which apps written for Bokeh's server know."""

BODY_TIME = 600.0
"""Seconds for such a body: the largest one takes as long over a line of 1.4 Mbit/s."""

MAX_BODIES = 128 * 1024 * 1024
"""Bytes of all bodies on their way to one worker; one of the largest has room beside small ones."""

OWN_BODY = 64 * 1024
"""Bytes of a body for a route of ours, of which the form of the dashboard's login is the only one that reads any."""

OWN_BODY_TIME = 10.0
"""Seconds for such a body."""

_BODILESS = (ErrorHandler, RedirectHandler, StaticFileHandler)


class Bodies:
    """The bodies on their way to this worker, in the order in which something last came of each.

    Args:
        most: bytes of all of them together.
    """

    def __init__(self, most: int = MAX_BODIES) -> None:
        self.most = most
        self._sizes: dict[HTTP1Connection, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes that are held."""
        return self._total

    def bound(self, delegate: HTTPMessageDelegate, connection: HTTP1Connection, handler: type[RequestHandler]) -> Any:
        """The delegate, within the bounds of its handler's route; called when the head is read and the body is not.

        Nothing is bound before the delegate gets the head: a program with several applications asks each of them for
        one, and may take another's.
        """
        if getattr(delegate, "stream_request_body", False):
            return delegate  # nothing of it is kept here, and it may set bounds of its own in `prepare`
        return _Counted(delegate, connection, self, own=not takes_bodies(handler))

    def add(self, connection: HTTP1Connection, size: int) -> None:
        """So many bytes have come."""
        self._sizes[connection] = self._sizes.pop(connection, 0) + size
        self._total += size
        while self._total > self.most:
            stalest = next(iter(self._sizes))
            self.release(stalest)
            stalest.close()

    def release(self, connection: HTTP1Connection) -> None:
        """The body is complete, or its connection closed. Idempotent."""
        self._total -= self._sizes.pop(connection, 0)


class _Counted(HTTPMessageDelegate):
    """Passes a request on, counting its body, and refuses one that says beforehand that it is too large."""

    def __init__(
        self, delegate: HTTPMessageDelegate, connection: HTTP1Connection, bodies: Bodies, *, own: bool
    ) -> None:
        self._delegate = delegate
        self._connection = connection
        self._bodies = bodies
        self._own = own

    def __getattr__(self, name: str) -> Any:
        # Programs with several applications choose by what Tornado's delegate shows: Dask by its `handler_class`.
        return getattr(self._delegate, name)

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if self._own:
            self._connection.set_max_body_size(OWN_BODY)
            self._connection.set_body_timeout(OWN_BODY_TIME)
        if _declared(headers) > self._connection._max_body_size:
            answer = HTTPHeaders({"Content-Length": "0", "Connection": "close"})
            self._connection.write_headers(ResponseStartLine("HTTP/1.1", 413, "Content Too Large"), answer)
            self._connection.finish()
            return None
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._bodies.add(self._connection, len(chunk))
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._bodies.release(self._connection)
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._bodies.release(self._connection)
        self._delegate.on_connection_close()


def takes_bodies(handler: type[RequestHandler]) -> bool:
    """Whether a handler is an app's, an auth module's or an extension's, which may be sent anything."""
    return not handler.__module__.startswith("aperture.") and handler not in _BODILESS


def has_body(headers: HTTPHeaders) -> bool:
    """Whether a request's head promises a body."""
    return "Transfer-Encoding" in headers or _declared(headers) > 0


def _declared(headers: HTTPHeaders) -> int:
    length = headers.get("Content-Length", "0").partition(",")[0]  # Tornado refuses repeated ones that differ
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
