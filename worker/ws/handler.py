"""`{app}/ws`: the websocket of one browser tab or Python client.

Everything that can be wrong with a request is found before the handshake, so that it is answered with a status and a
sentence instead of a connection that opens and drops. What comes after is a pump: fragments to the assembler, messages
to the session, frames to the outbox.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from aperture import tracing
from aperture.errors import BusDown, NotTheirs, OwnerGone, PageRefused, ProtocolError, SessionGone
from aperture.log_scope import SESSION, SessionScope, short_id
from aperture.protocol import messages
from aperture.protocol.closing import (
    ABNORMAL,
    INTERNAL_ERROR,
    NO_CODE,
    POLICY_VIOLATION,
    SERVICE_RESTART,
    TRY_AGAIN_LATER,
)
from aperture.protocol.fragments import Assembler
from aperture.protocol.naming import SUBPROTOCOL
from aperture.protocol.tokens import Token
from aperture.worker.handler_context import Services
from aperture.worker.http.access_log import RequestLine, Traffic, log_websocket_end
from aperture.worker.http.admission import origin_of, verify
from aperture.worker.http.auth import AuthenticatedHandler
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.attachment import Attachment
from aperture.worker.session.host import AppHost
from aperture.worker.session.slice import Slice
from aperture.worker.ws.connection import ServerProtocol
from aperture.worker.ws.outbox import StreamOutbox

__all__ = ["SessionSocket"]

log = logging.getLogger(__name__)


_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)

_CLOSE_REASON_LIMIT = 120
"""Bytes; a control frame holds 125, two of which are the code (RFC 6455, section 5.5)."""


_NO_HEADERS = HTTPHeaders()


class SessionSocket(AuthenticatedHandler, WebSocketHandler):
    """One websocket.

    Args:
        host: the app.
        services: the worker's shared parts.
    """

    __slots__ = (
        *("_assembler", "_fragments", "_offered", "_opened_at", "_protocol", "_closed_for", "_received", "_slice"),
        *("_token", "_unknown", "attachment", "host", "outbox", "services"),
    )
    # With these in the instance's dictionary, it would have more entries than Python shares the keys of: 1.3 KB each.

    def initialize(self, host: AppHost, services: Services) -> None:
        self.host = host
        self.services = services
        self.attachment: Attachment | None = None
        self.outbox: StreamOutbox | None = None
        self._fragments: list[str | bytes] = []
        self._assembler = Assembler(services.settings.websocket_max_message_size)
        self._slice = Slice()
        self._offered = ""
        self._protocol: ServerProtocol | None = None
        """Tornado forgets its own before it tells of the end."""
        self._token: Token | None = None
        self._unknown: BusDown | None = None
        """Why it cannot be known whether the token still opens its session."""
        self._received = Traffic()
        self._opened_at = 0.0
        self._closed_for = ""
        """Why this side has closed the websocket."""

    # Before the handshake

    async def prepare(self) -> None:
        await super().prepare()
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            return  # Tornado answers 400
        await self._check_request()

    async def _check_request(self) -> None:
        if not self._is_from_allowed_origin():
            raise HTTPError(403, reason="Origin not allowed")
        if not self.current_user:
            raise HTTPError(403, reason="Not logged in")
        offered = [part.strip() for part in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if len(offered) != 2 or offered[0] != SUBPROTOCOL or not offered[1]:
            raise HTTPError(400, reason="Subprotocol header must be 'bokeh, TOKEN'")
        self._offered = offered[1]
        self._token = verify(self.services.tokens, offered[1])
        SESSION.set(SessionScope(self._token.session_id, self.host.url))  # for as long as the websocket is open
        try:
            if not await self.services.access.opens(self._token, self.host):
                raise HTTPError(403, reason="Token is expired")
        except BusDown as problem:
            # Answered behind the handshake: a page that is refused sees no reason, one that is closed sees 1012.
            self._unknown = problem

    def check_origin(self, origin: str) -> bool:
        if self.services.origins.admits(origin):
            return True
        log.error(
            "refused a websocket from origin %r; to allow it use --allow-websocket-origin=%s",
            origin[:200],
            origin.partition("://")[2][:200] or "HOST:PORT",
        )
        return False

    def _is_from_allowed_origin(self) -> bool:
        """Judge as Tornado will after the handshake's other checks: here a refusal can say why.

        It believes a browser's `Sec-Fetch-Site: same-origin`, which also holds behind a proxy that changes the Host
        header, and asks `check_origin` about the others.
        """
        # A header that is no URL, such as `http://[here`, makes Tornado's own comparison raise.
        with suppress(ValueError):
            return self._check_cross_origin(self.check_origin) is None
        return self.check_origin(self.request.headers.get("Origin", ""))

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL

    def get_compression_options(self) -> dict[str, Any] | None:
        settings = self.services.settings
        if settings.websocket_compression_level is None:
            return None
        options = {"compression_level": settings.websocket_compression_level}
        if settings.websocket_compression_mem_level is not None:
            options["mem_level"] = settings.websocket_compression_mem_level
        return options

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        protocol = super().get_websocket_protocol()
        if not isinstance(protocol, WebSocketProtocol13):
            return protocol  # None: a version of the protocol that Tornado does not speak, which it answers
        leave = self.services.sockets.leave
        self._protocol = ServerProtocol(self, protocol.params, self._await_rest, leave, self._refuse)
        return self._protocol

    # The connection

    def _detach_stream(self) -> IOStream:
        """Tornado's puts functions that refuse in the place of seven of the handler's own, on each instance."""
        return self.detach()

    async def open(self, *args: str, **kwargs: str) -> None:
        stream = self._stream()
        if stream is None:
            return  # closed by either side while the handshake was answered; `on_close` has run already
        self._opened_at = time.monotonic()
        self.set_nodelay(True)
        self.services.sockets.add(self, self._pinged_every())
        self.services.collector.activity()
        self.outbox = StreamOutbox(
            stream,
            limit=self.services.settings.outbox_limit,
            timeout=self.services.settings.viewer_timeout,
            close=self._close_slow,
            frames_of=self._deflated_frames(),
            timed_out=self._count_timeout,
            room=self.services.sockets.refresh_room,
        )
        try:
            with tracing.span("websocket open"):
                attachment = await self._enter(self.outbox)
        except NotTheirs as problem:
            self.close(POLICY_VIOLATION, str(problem))
            return
        except PageRefused as problem:
            self.close(problem.close_code, str(problem))
            return
        except (SessionGone, OwnerGone, BusDown) as problem:
            self.close(SERVICE_RESTART, str(problem))
            return
        except Exception:
            log.exception("creating a session of %s failed", self.host.url)
            self.close(INTERNAL_ERROR, "the app failed to create a session")
            return
        if self.ws_connection is None or self.ws_connection.is_closing():
            attachment.leave()  # it went away while the app's code ran
            return
        self.attachment = attachment
        self.outbox.send(messages.ack())
        self._forget_request()

    def _pinged_every(self) -> float:
        """Seconds between two pings; 0 for none, or where Tornado sends them and insists on pongs."""
        return 0 if self.ping_timeout else self.ping_interval or 0

    def _forget_request(self) -> None:
        """Keep of the request what the log will say of it: all of it is 6 KB, for as long as the tab is open."""
        self.request = RequestLine.of(self.request)  # type: ignore[assignment]
        self._headers = _NO_HEADERS
        self._transforms = []
        self.ui = None  # type: ignore[assignment]

    def keep_alive(self) -> None:
        """Ping the peer, so that no proxy on the way takes the connection for an idle one."""
        connection = self.ws_connection
        if connection is not None and not connection.is_closing():
            with suppress(StreamClosedError):
                connection.write_ping(b"")

    async def _enter(self, outbox: StreamOutbox) -> Attachment:
        token = self._verified()
        if self._unknown is not None:
            raise self._unknown
        application = self.host.application
        arrival = Arrival(
            self.host,
            token.session_id,
            lambda: origin_of(self.request, token, self.services.settings, application, self.user_name),
            token=self._offered,
            from_browser=self.request.headers.get("Origin") is not None,
        )
        return await self.services.access.enter(arrival, outbox)

    def _verified(self) -> Token:
        if self._token is None:
            raise AssertionError("prepare has verified the token or refused the request")
        return self._token

    def _stream(self) -> IOStream | None:
        """The connection, or None from the moment on at which this side closes it or learns that it is gone."""
        return None if self.ws_connection is None else self.ws_connection.stream

    def _deflated_frames(self) -> Any:
        """How to pick the compressed form of a run, or None if the peer did not offer permessage-deflate."""
        settings = self.services.settings
        level = settings.websocket_compression_level
        if level is None or getattr(self.ws_connection, "_compressor", None) is None:
            return None
        memory = settings.websocket_compression_mem_level
        return lambda run: run.deflated(level, memory)

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Take one websocket message; Tornado reads the next one when the awaitable, if there is one, is done."""
        self._slice.begin()
        work = self._take(message)
        if self._slice.end() and work is None:
            return asyncio.sleep(0)
        return work

    def _take(self, message: str | bytes) -> Awaitable[None] | None:
        self.services.collector.activity()
        self._received.bytes += len(message)
        try:
            assembled = self._assembler.feed(message)
            self._fragments.append(message)
            if assembled is None:
                return None
            fragments, self._fragments = tuple(self._fragments), []
            self._received.messages += 1
            if self.attachment is None:
                return None  # closing: the session could not be had
            return self._guarded(self.attachment.receive(assembled, fragments))
        except ProtocolError as problem:
            self._refuse(problem)
        except SessionGone:
            self.close(SERVICE_RESTART, "the session is gone")
        return None

    def _await_rest(self) -> None:
        """All that has arrived is acted on."""
        if not self._assembler.between_messages:
            self._acknowledge_now()

    def _acknowledge_now(self) -> None:
        """Spare a client with Nagle's algorithm on, such as Bokeh's own, 40 ms for each fragment it sends.

        It holds the next fragment back until this one is acknowledged, and the kernel, having nothing to send, delays
        that. Linux forgets the option with every acknowledgement, so it is set for each.
        """
        stream = self._stream()
        connected = None if stream is None else stream.socket  # a late fragment may come after a close
        if _QUICKACK is not None and connected is not None:
            with suppress(OSError):  # a unix socket has no such option
                connected.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _guarded(self, work: Awaitable[None] | None) -> Awaitable[None] | None:
        return None if work is None else self._finish_work(work)

    async def _finish_work(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            # The event loop ends without app code that has not come back; Tornado would log that as a failure.
            return
        except ProtocolError as problem:
            self._refuse(problem)
        except SessionGone:
            self.close(SERVICE_RESTART, "the session is gone")

    def _refuse(self, problem: ProtocolError) -> None:
        session = short_id(self._token.session_id) if self._token is not None else "none"
        log.warning("websocket of session %s broke the protocol: %s", session, problem)
        if self.outbox is not None:
            self.outbox.stop()
        self.close(problem.close_code, str(problem))

    def _count_timeout(self) -> None:
        if self.host.tally is not None:
            self.host.tally.viewer_timeouts += 1

    def _close_slow(self, code: int, reason: str) -> None:
        """Close a viewer whose socket is full: it will hardly answer, so it gets little time to."""
        if code == TRY_AGAIN_LATER and self.host.tally is not None:
            self.host.tally.slow_closes += 1
        self.close(code, reason)
        connection = self.ws_connection
        if connection is not None:
            asyncio.get_running_loop().call_later(_CLOSE_PATIENCE, connection._abort)

    def _is_lost(self) -> bool:
        """Whether the page may come back: it was cut off, or it was this side that closed first."""
        return self._protocol is None or not self._protocol.left_first

    def _code_of_end(self) -> int:
        """The peer's code, or where it gave none what stands for that."""
        if self.close_code is not None:
            return self.close_code
        return NO_CODE if self._protocol is not None and self._protocol.close_frame_came else ABNORMAL

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Begin the closing handshake; of several calls the first counts."""
        if self.ws_connection is not None:
            self._closed_for = reason or ""
        super().close(code, None if reason is None else _fitting(reason))

    def on_close(self) -> None:
        self.services.sockets.remove(self)
        if self.outbox is not None:
            self.outbox.stop()
        if self.attachment is not None:
            self.attachment.leave(lost=self._is_lost())
        sent = (0, 0) if self.outbox is None else (self.outbox.sent, self.outbox.sent_bytes)
        if self._opened_at:
            log_websocket_end(
                self.request,
                self._code_of_end(),
                self._closed_for,
                time.monotonic() - self._opened_at,
                self._received,
                *sent,
            )


_CLOSE_PATIENCE = 1.0
"""Seconds between the close frame to a slow viewer and the end of its connection."""


def _fitting(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:_CLOSE_REASON_LIMIT].decode("utf-8", "ignore")
