"""TLS termination in the gateway: the handshake's context, and the pump between a browser and the worker.

A TLS connection's state lives in the process that made it and cannot be handed over. So the worker gets one end of a
socket pair, and the gateway moves plain bytes between the other end and the browser for as long as the connection
lives. That is slower than a hand-over, and it ends when the gateway does; TLS terminated by an ingress has neither
cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from aperture.config.settings import Tls
from aperture.errors import ConfigurationError
from aperture.lingering import half_close
from aperture.liveness import notice_lost_peer

__all__ = ["Pump", "Pumps", "server_context"]

CHUNK = 64 * 1024
"""Bytes read at once, and the high-water mark of one direction: above it the sender is not read from."""

CHUNKS_PER_TURN = 8
"""Chunks moved before other connections get their turn."""

LAST_WORDS = 5.0
"""Seconds a browser has to close its side once the worker has closed."""

_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def server_context(tls: Tls) -> ssl.SSLContext:
    """The server's TLS context with this certificate.

    Raises:
        ConfigurationError: the certificate or its key cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Many clients end the connection without close_notify. If that were a failure, they would lose the answer to what
    # they had sent before; HTTP and websockets detect truncation themselves.
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    try:
        # Without a callback OpenSSL would ask for a missing password on the terminal, and block the start.
        context.load_cert_chain(tls.certfile, tls.keyfile, lambda: tls.password or "")
    except (OSError, ValueError) as problem:
        raise ConfigurationError(f"cannot use the certificate {tls.certfile}: {problem}") from problem
    return context


class _Flow:
    """One direction of a pump: bytes read from `source` that `sink` has not taken yet."""

    __slots__ = ("closed", "ended", "moved", "sink", "source", "waiting")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting = memoryview(b"")
        self.ended = False
        """The source will send nothing more."""
        self.moved = 0
        """Bytes that the sink has taken."""
        self.closed = False
        """The sink has been shut down, or takes nothing more."""

    def advance(self) -> bool:
        """Move bytes. True when the turn was used up and there may be more.

        Raises:
            OSError: the source or the TLS layer has failed; the connection is over.
        """
        for _ in range(CHUNKS_PER_TURN):
            if not self._write() or self.ended or not self._read():
                return False
        return True

    def _read(self) -> bool:
        try:
            received = self.source.recv(CHUNK)
        except _NOT_NOW:
            return False
        except ConnectionResetError:
            received = b""  # a worker that closes with unread bytes sends a reset; what it wrote before has been read
        self.waiting = memoryview(received)
        self.ended = not received
        return bool(received) or self._write()

    def _write(self) -> bool:
        """Whether all buffered bytes have been taken."""
        while self.waiting and not self.closed:
            try:
                sent = self.sink.send(self.waiting)
                self.moved += sent
                self.waiting = self.waiting[sent:]
            except _NOT_NOW:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self.closed = True  # read on and discard: the other direction may still have bytes to deliver
        self.waiting = memoryview(b"")
        if self.ended and not self.closed:
            self.closed = True
            half_close(self.sink)
        return True


class Pump:
    """Moves plain bytes between a TLS connection and the worker that serves it."""

    def __init__(self, pumps: Pumps, browser: ssl.SSLSocket, worker: socket.socket) -> None:
        self._pumps = pumps
        self._loop = pumps.loop
        self._browser = browser
        self._worker = worker
        self._inbound = _Flow(browser, worker)
        self._outbound = _Flow(worker, browser)
        self._watched: dict[tuple[int, bool], bool] = {}
        self._leaving: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def has_output(self) -> bool:
        """Whether the worker may still send something, or the browser has not taken all of it."""
        return not self._outbound.closed

    @property
    def delivered(self) -> int:
        """Bytes that the browser's side has taken."""
        return self._outbound.moved

    def run(self) -> None:
        """Move what can be moved now, and watch for readiness to move more."""
        if self._closed:
            return
        try:
            # The TLS layer may hold decrypted bytes that poll does not report, so both directions are always tried.
            busy = [flow.advance() for flow in (self._inbound, self._outbound)]
        except OSError:
            self.close()
            return
        if self._inbound.ended and self._inbound.closed and self._outbound.closed:
            self.close()
            return
        if self._outbound.closed and self._leaving is None:
            self._leaving = self._loop.call_later(LAST_WORDS, self.close)
        self._watch()
        if any(busy):
            self._loop.call_soon(self.run)

    def close(self) -> None:
        """Close both connections, and drop bytes still in flight."""
        if self._closed:
            return
        self._closed = True
        if self._leaving is not None:
            self._leaving.cancel()
        for descriptor, writing in self._watched:
            self._set_watch(descriptor, writing, False)
        self._browser.close()
        self._worker.close()
        self._pumps.forget(self)

    def _watch(self) -> None:
        for flow in (self._inbound, self._outbound):
            stuck = bool(flow.waiting)
            self._set_watch(flow.source.fileno(), False, not stuck and not flow.ended)
            self._set_watch(flow.sink.fileno(), True, stuck)

    def _set_watch(self, descriptor: int, writing: bool, wanted: bool) -> None:
        if self._watched.get((descriptor, writing), False) == wanted:
            return
        self._watched[descriptor, writing] = wanted
        if writing:
            self._loop.add_writer(descriptor, self.run) if wanted else self._loop.remove_writer(descriptor)
        else:
            self._loop.add_reader(descriptor, self.run) if wanted else self._loop.remove_reader(descriptor)


class Pumps:
    """All pumps of this gateway."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._running: set[Pump] = set()

    @property
    def idle(self) -> bool:
        """Whether every worker behind a pump has closed, and every browser has taken all bytes."""
        return not any(pump.has_output for pump in self._running)

    def close_stalled(self, before: dict[Pump, int]) -> dict[Pump, int]:
        """End the pumps that have delivered nothing since `before`, the result of an earlier call.

        Returns:
            the pumps with bytes left, and how many each has delivered; empty once every worker has closed.
        """
        now = {pump: pump.delivered for pump in self._running if pump.has_output}
        stalled = [pump for pump, delivered in now.items() if before.get(pump) == delivered]
        for pump in stalled:
            del now[pump]
            with contextlib.suppress(OSError):
                pump.close()
        return now

    def start(self, browser: ssl.SSLSocket) -> socket.socket:
        """Pump for this connection; the returned socket is the worker's end of the pair.

        Raises:
            OSError: out of descriptors; the connection is closed.
        """
        try:
            notice_lost_peer(browser)  # TCP keep-alive works only here: the worker's end of the pair is no TCP socket
            ours, theirs = socket.socketpair()
        except OSError:
            browser.close()
            raise
        ours.setblocking(False)
        theirs.setblocking(False)
        pump = Pump(self, browser, ours)
        self._running.add(pump)
        self.loop.call_soon(pump.run)
        return theirs

    def forget(self, pump: Pump) -> None:
        """A pump has ended."""
        self._running.discard(pump)

    def close(self) -> None:
        """End every pump."""
        for pump in tuple(self._running):
            with contextlib.suppress(OSError):
                pump.close()
