"""Connections that the gateway has accepted: a Tornado stream over the socket, and a server that hands back strangers.

The gateway has read the request head already, so the stream serves those bytes before it reads the socket. A proxy in
front sends the requests of many people down one connection: a request for a session of another worker is not answered
here but handed back, socket and all, to be routed again.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream

from aperture.config.settings import Settings
from aperture.inheritance import withhold
from aperture.liveness import notice_lost_peer
from aperture.worker.http.bodies import BODY_TIME, MAX_BODY, has_body
from aperture.worker.waiting import Waiting

__all__ = [
    "AdoptedStream",
    "HandBackRequest",
    "ListeningServer",
    "Peer",
    "StickyServer",
    "adopt_socket",
    "http_options",
]

log = logging.getLogger(__name__)

IDLE_TIMEOUT = 650.0
"""Seconds that a kept-alive connection may be idle. Proxies must close theirs before, as a request may be on its way
when it is closed here; the most patient, Google's load balancers, do so after 600."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end.

    Args:
        address: IP address and port, or None for a unix socket.
        tls: whether the client speaks TLS, which ended in the gateway.
    """

    address: tuple[str, int] | None
    tls: bool


class _ShortQueue(list[Any]):
    """As much of a deque as Tornado's streams use, for the few writes that ever wait at the same time."""

    __slots__ = ()

    def popleft(self) -> Any:
        return self.pop(0)


class AdoptedStream(IOStream):
    """A stream over an adopted socket.

    Args:
        adopted: the connected socket; the stream owns it from now on.
        first_bytes: what the gateway has read from it.
        peer: who it is.
        session_id: that the gateway routed the first request by; None if it names no session.
    """

    __slots__ = ("_first_bytes", "fresh", "peer", "session_id")
    # With these in the instance's dictionary, it would have more entries than Python shares the keys of: 1.3 KB each.

    def __init__(self, adopted: socket.socket, first_bytes: bytes, peer: Peer, session_id: str | None) -> None:
        self.peer = peer
        self.session_id = session_id
        self.fresh = True
        # A view: a body of 32 KB is served in several reads, and would be copied at each.
        self._first_bytes: memoryview | bytes = memoryview(first_bytes)
        super().__init__(adopted)
        # An empty deque is 760 bytes, and a stream has two.
        self._write_futures = _ShortQueue()  # type: ignore[assignment]
        self._write_buffer._buffers = _ShortQueue()  # type: ignore[assignment]

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        if not self._first_bytes:
            return super().read_from_fd(buf)
        # Without touching the socket: it may have nothing, and a request that is here already must not wait for it.
        size = min(len(buf), len(self._first_bytes))
        buf[:size] = self._first_bytes[:size]
        self._first_bytes = self._first_bytes[size:] or b""  # an empty view would keep them all
        return size

    def release(self) -> tuple[socket.socket, bytes]:
        """Give up the socket, with what was read from it and not used. The stream is of no use afterwards."""
        # In the order in which they came: the buffer was filled from the first bytes.
        unused = bytes(self._read_buffer) + bytes(self._first_bytes)
        # A second descriptor of the same connection: closing the stream closes the first, and takes it from the event
        # loop.
        freed = self.socket.dup()
        self.close()
        return freed, unused


def adopt_socket(adopted: socket.socket) -> None:
    """Set what every connection of a viewer needs; unix sockets need nothing."""
    adopted.setblocking(False)
    if adopted.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A patch is one write, but a correction and a reply may follow: Nagle's algorithm would hold them for the peer's
    # delayed acknowledgement, of up to 40 ms.
    adopted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A laptop that is closed sends no FIN: without this its viewer would be counted, and written to, for ever.
    notice_lost_peer(adopted)


class HandBackRequest(Protocol):
    """Decides about requests after the first on a kept-alive connection."""

    def belongs_elsewhere(self, start: RequestStartLine, headers: HTTPHeaders, routed: str | None) -> bool:
        """Whether another worker should answer. `routed`: the session id the gateway sent this very request for."""
        ...

    def hand_back(self, released: socket.socket, head: bytes, peer: Peer) -> None:
        """Have the connection routed again; it starts with `head`."""
        ...


class _BoundedServer(HTTPServer):
    """Tornado's HTTP server with bounds on what it waits for.

    It keeps its browsers' connections, websockets among them, from children that an app's code forks.
    """

    def initialize(self, *args: Any, waiting: Waiting, **kwargs: Any) -> None:  # type: ignore[override]
        super().initialize(*args, **kwargs)
        self._waiting = waiting
        # Weak: Tornado drops a connection in several places, and tells of some of them.
        self._served: WeakSet[HTTP1ServerConnection] = WeakSet()
        self._streams: WeakSet[IOStream] = WeakSet()
        withhold(self)

    def descriptors(self) -> Iterable[int]:
        """Those of the connections that are open."""
        return [stream.socket.fileno() for stream in self._streams if not stream.closed()]

    def keep_from_children(self, stream: IOStream) -> None:
        """A connection is this process's alone."""
        self._streams.add(stream)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Called when the connection is new and after each of its requests, before Tornado reads the next."""
        delegate = super().start_request(server_conn, request_conn)
        if not isinstance(server_conn, HTTP1ServerConnection):
            raise AssertionError("Tornado's server starts the requests of its own connections")
        # A new connection has its time from now on, one that is kept alive from the first byte of its next request.
        first = server_conn not in self._served
        self._served.add(server_conn)
        self._waiting.for_head(server_conn, begun=first)
        return _AwaitedDelegate(delegate, server_conn, self._waiting)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        if isinstance(server_conn, HTTP1ServerConnection):
            self._waiting.no_longer(server_conn)


class StickyServer(_BoundedServer):
    """Tornado's HTTP server for adopted streams; see `HTTPServer` for the other arguments."""

    def initialize(self, *args: Any, handing_back: HandBackRequest | None = None, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._handing_back = handing_back

    def adopt(self, stream: AdoptedStream) -> None:
        """Serve the requests of an adopted connection."""
        self.keep_from_children(stream)
        # What Tornado's `HTTPServer.handle_stream` does, with the peer as the gateway saw it.
        peer = stream.peer
        context = _HTTPRequestContext(stream, peer.address or (), "https" if peer.tls else "http", None)
        if peer.address is not None:
            # With TLS the worker's socket is one end of a pair, and its family says nothing of the client.
            context.remote_ip = context._orig_remote_ip = peer.address[0]
        connection = HTTP1ServerConnection(stream, self.conn_params, context)
        self._connections.add(connection)
        connection.start_serving(self)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        delegate = super().start_request(server_conn, request_conn)
        stream = getattr(server_conn, "stream", None)
        # A connection that this process has accepted itself has no gateway behind it.
        if self._handing_back is None or not isinstance(stream, AdoptedStream):
            return delegate
        return _StickyDelegate(delegate, request_conn, stream, self._handing_back)


class ListeningServer(_BoundedServer):
    """Tornado's HTTP server for a process that accepts its connections itself, with the same settings for each."""

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        try:
            adopt_socket(connection)
        except OSError as problem:
            log.debug("a connection was gone as soon as it was accepted: %s", problem)
            connection.close()
            return
        super()._handle_connection(connection, address)

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        self.keep_from_children(stream)
        super().handle_stream(stream, address)


def http_options(settings: Settings) -> dict[str, Any]:
    """What either server is made with."""
    chosen = {
        "xheaders": settings.use_xheaders,
        "max_header_size": settings.max_head_size,
        "idle_connection_timeout": IDLE_TIMEOUT,
        "max_body_size": MAX_BODY,
        "body_timeout": BODY_TIME,
        "waiting": Waiting(settings.head_timeout, settings.max_pending_connections),
    }
    return {**chosen, **settings.http_server_kwargs}


class _AwaitedDelegate(HTTPMessageDelegate):
    """Passes a request on, and says what is still waited for of it."""

    def __init__(self, delegate: HTTPMessageDelegate, connection: HTTP1ServerConnection, waiting: Waiting) -> None:
        self._delegate = delegate
        self._connection = connection
        self._waiting = waiting

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if has_body(headers):
            self._waiting.for_body(self._connection)
        else:
            self._waiting.no_longer(self._connection)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._waiting.for_answer(self._connection)
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


class _StickyDelegate(HTTPMessageDelegate):
    """Looks at each request head before the application does."""

    def __init__(
        self,
        delegate: HTTPMessageDelegate,
        connection: HTTPConnection,
        stream: AdoptedStream,
        handing_back: HandBackRequest,
    ) -> None:
        self._delegate = delegate
        self._connection = connection
        self._stream = stream
        self._handing_back = handing_back

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if not isinstance(start_line, RequestStartLine):
            raise AssertionError("a server reads requests")
        # The first request was routed by the gateway, for this very id. Asked again, two workers with different
        # knowledge could pass a connection to and fro.
        first, self._stream.fresh = self._stream.fresh, False
        routed = self._stream.session_id if first else None
        if not first and self._handing_back.belongs_elsewhere(start_line, headers, routed):
            self._give_back(start_line, headers)
            return None
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()

    def _give_back(self, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        # Tornado would go on to read the body, and answer.
        self._connection.detach()  # type: ignore[attr-defined]
        released, unused = self._stream.release()
        self._handing_back.hand_back(released, _head_bytes(start_line, headers) + unused, self._stream.peer)


def _head_bytes(start_line: RequestStartLine, headers: HTTPHeaders) -> bytes:
    lines = [f"{start_line.method} {start_line.path} {start_line.version}"]
    lines += [f"{name}: {value}" for name, value in headers.get_all()]
    # Written anew from what Tornado has parsed; latin-1 is how it has decoded the bytes (RFC 9110, section 5.5).
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "surrogateescape")
