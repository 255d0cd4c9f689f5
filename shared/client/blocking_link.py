"""The connection of a session whose calls block. It is opened, written to and closed from the calling thread, and lives
on the loop of `aperture.client.background`, from which its messages come into the session's inbox."""

from __future__ import annotations

import logging
import os
import warnings
import weakref
from concurrent.futures import Future

from aperture.client import background
from aperture.client.connect_options import ClientOptions
from aperture.client.incoming import Ended, Inbox
from aperture.client.pump import Pump, blocked
from aperture.client.websocket import CLOSE_SECONDS, Link
from aperture.errors import ClientError, ServerSilent
from aperture.protocol.messages import Request

__all__ = ["BlockingLink"]

log = logging.getLogger(__name__)


class BlockingLink:
    """One session's connection, or none: each `open` begins a new one.

    Args:
        options: the server, the session and the limits.
        pump: waits for the connection, and gets what comes of it into its inbox.
    """

    def __init__(self, options: ClientOptions, pump: Pump) -> None:
        self._options = options
        self._pump = pump
        self._link: Link | None = None
        self._unclosed: weakref.finalize[..., BlockingLink] | None = None
        """Ends the connection when the session is garbage-collected without having been closed."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None and not self._link.ended

    @property
    def detached(self) -> bool:
        """Whether there is none, and the reason why the last one ended has been taken from the inbox."""
        return self._link is None

    def open(self) -> None:
        """Connect.

        Raises:
            ClientError: the session cannot be opened; the class and the text say why.
        """
        opening = background.submit(Link.open(self._options))
        opening.add_done_callback(lambda _: self._pump.inbox.wake())
        patience = self._options.connect_timeout + self._options.timeout + CLOSE_SECONDS
        try:
            self._pump.wait(opening.done, "could not be reached", patience)
        except BaseException:
            opening.add_done_callback(_close_late)
            raise
        try:
            link = opening.result()
        except ServerSilent as problem:
            raise blocked(problem) from None
        background.submit(_deliver(link, self._pump.inbox))
        self._unclosed = weakref.finalize(self, _abandoned, link, self._options.session_id[:8], os.getpid())
        self._unclosed.atexit = False  # a session that is open when the program ends is no mistake
        self._link = link

    def send(self, request: Request) -> None:
        """Send a request, if there is a connection."""
        if self._link is not None:
            background.call(self._link.send, request)

    def close(self, why: str) -> None:
        """Send a close frame, and wait for the server's as long as it may take. Idempotent."""
        link = self.detach()
        if link is None:
            return
        closing = background.submit(link.close(why))
        if self._pump.loop.runs_here:
            return  # the server may be on this loop, and can answer only after this call has returned
        try:
            self._pump.loop.result(closing, CLOSE_SECONDS + 1)
        except TimeoutError:
            log.debug("close not answered: session %s..., connection dropped", self._options.session_id[:8])

    def abort(self, why: str) -> None:
        """Drop the connection without waiting for the server. Idempotent."""
        link = self.detach()
        if link is not None:
            background.call(link.abort, why)

    def detach(self) -> Link | None:
        """Take the connection out: it has ended, or is the caller's to end."""
        link, self._link = self._link, None
        if self._unclosed is not None:
            self._unclosed.detach()
        return link

    def is_present(self, link: object) -> bool:
        """Whether this is the present connection, and not an earlier one, which was aborted."""
        return link is self._link


async def _deliver(link: Link, inbox: Inbox) -> None:
    """Put messages into the inbox until the connection ends, and then the reason."""
    try:
        while True:
            inbox.put(await link.receive(), link.size)
    except ClientError as problem:
        inbox.put(Ended(link, problem))


def _abandoned(link: Link, name: str, pid: int) -> None:
    """End the connection of a session that was garbage-collected. May run in any thread, and in a forked child, which
    must not close the parent's connection."""
    if not link.ended and pid == os.getpid():
        background.call(link.abort, "abandoned")
        warnings.warn(f"session {name}... was never closed", ResourceWarning, stacklevel=2)


def _close_late(opening: Future[Link]) -> None:
    """Close a connection that opened after its caller had given up."""
    if not opening.cancelled() and opening.exception() is None:
        background.submit(opening.result().close("too late"))
