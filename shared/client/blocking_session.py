"""The client for code without an event loop: `bokeh.client`'s functions and its `ClientSession`, blocking.

The connection has a thread of its own (`aperture.client.background`), so these calls also work where a loop is
running. The document belongs to the caller: the server's patches are applied, and the document's timed
callbacks run, in the calling thread and only during a blocking call (`pull`, `push`, `force_roundtrip`,
`request_server_info`, `connect`), as with Bokeh's client. Local changes are sent at once. A program that uses one
session from several threads must ensure that only one does at a time. If the caller gives a loop that is not running,
these calls run it while they wait (`aperture.client.callers_loop`), because the server may be on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum, auto
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from bokeh.document import Document

from aperture.client.blocking_link import BlockingLink
from aperture.client.callers_loop import AnyLoop
from aperture.client.connect_options import (
    CONNECT_TIMEOUT,
    MAX_MESSAGE_SIZE,
    TIMEOUT,
    ClientOptions,
    delays_of,
    key_bytes,
    session_id_or_new,
)
from aperture.client.incoming import Ended, Item, Overrun
from aperture.client.mirror import Change, Mirror
from aperture.client.pump import Pump
from aperture.client.refusals import given_up
from aperture.client.sync_protocol import Answer, Exchange, Phase
from aperture.client.urls import (
    DEFAULT_WEBSOCKET_URL,
    app_url,
    server_url_for_websocket_url,
    websocket_url_for_server_url,
)
from aperture.client.websocket import CLOSE_SECONDS
from aperture.document import current, ids
from aperture.errors import (
    ClientError,
    MessageTooLarge,
    ServerGone,
    ServerSilent,
    SessionClosed,
)
from aperture.protocol.messages import Message

if TYPE_CHECKING:
    from bokeh.models.ui import UIElement
    from bokeh.util.browser import BrowserLike, BrowserTarget

__all__ = ["DEFAULT_SESSION_ID", "ClientSession", "ErrorReason", "pull_session", "push_session", "show_session"]

log = logging.getLogger(__name__)

DEFAULT_SESSION_ID = "default"


class ErrorReason(Enum):
    """Why a session is no longer connected."""

    NO_ERROR = auto()
    HTTP_ERROR = auto()
    NETWORK_ERROR = auto()


def pull_session(
    session_id: str | None = None,
    url: str = "default",
    io_loop: AnyLoop | None = None,
    arguments: Mapping[str, str | Iterable[str]] | None = None,
    max_message_size: int = MAX_MESSAGE_SIZE,
    **more: Any,
) -> ClientSession:
    """Open a session, or create one, and pull its document.

    Args:
        session_id: None for a new one; the session's `id` has it.
        url: of the app, or `"default"` for a local server's root.
        io_loop: run while a call waits, if it is not running; the connection has a loop of its own.
        arguments: for the app's code, if the session is new.
        max_message_size: bytes of one message, in either direction.
        more: further arguments of `ClientSession`.

    Raises:
        ClientError: the session cannot be opened; the class and the text say why.
    """
    websocket_url = websocket_url_for_server_url(app_url(url))
    session = ClientSession(session_id, websocket_url, io_loop, arguments, max_message_size, **more)
    try:
        session.pull()
    except BaseException:
        session._give_up()
        raise
    return session


def push_session(
    document: Document,
    session_id: str | None = None,
    url: str = "default",
    io_loop: AnyLoop | None = None,
    max_message_size: int = MAX_MESSAGE_SIZE,
    **more: Any,
) -> ClientSession:
    """Open a session, or create one, and push this document to it.

    Args:
        document: becomes the session's `document`.
        session_id: None for a new one; the session's `id` has it.
        url: of the app, or `"default"` for a local server's root.
        io_loop: run while a call waits, if it is not running; the connection has a loop of its own.
        max_message_size: bytes of one message, in either direction.
        more: further arguments of `ClientSession`.

    Raises:
        ClientError: the session cannot be opened; the class and the text say why.
    """
    websocket_url = websocket_url_for_server_url(app_url(url))
    session = ClientSession(session_id, websocket_url, io_loop, None, max_message_size, **more)
    try:
        session.push(document)
    except BaseException:
        session._give_up()
        raise
    return session


def show_session(
    session_id: str | None = None,
    url: str = "default",
    session: ClientSession | None = None,
    browser: str | None = None,
    new: BrowserTarget = "tab",
    controller: BrowserLike | None = None,
) -> None:
    """Open a session in a browser.

    Args:
        session_id: None for a new one. Not used with `session`.
        url: of the app. Not used with `session`.
        session: to be shown.
        browser: its name, as in the standard library's `webbrowser`.
        new: `"tab"` or `"window"`.
        controller: opens the page instead of a browser.
    """
    from bokeh.util.browser import NEW_PARAM, get_browser_controller

    if session is not None:
        page, session_id = server_url_for_websocket_url(session.url), session.id
    else:
        page, session_id = app_url(url), session_id_or_new(session_id, None)
    opener = controller if controller is not None else get_browser_controller(browser=browser)
    opener.open(f"{page}?bokeh-session-id={quote_plus(session_id)}", new=NEW_PARAM[new])


class ClientSession:
    """A session of a server, and a copy of its document.

    The first five arguments are those of Bokeh's class. Use it as a context manager, or close it.

    Args:
        session_id: None for a new one.
        websocket_url: of the app's websocket.
        io_loop: run while a call waits, if it is not running; the connection has a loop of its own.
        arguments: for the app's code, if the session is new.
        max_message_size: bytes of one message, in either direction.
        headers: to be sent with the handshake.
        cookies: to be sent with the handshake, by name.
        secret_key: signs the token; the default is `BOKEH_SECRET_KEY`, if it is set.
        connect_timeout: seconds until the websocket is open.
        timeout: seconds for any other answer.
        reconnect: whether a call that finds the connection lost opens a new one, or the seconds before each attempt.
    """

    def __init__(
        self,
        session_id: str | None = None,
        websocket_url: str = DEFAULT_WEBSOCKET_URL,
        io_loop: AnyLoop | None = None,
        arguments: Mapping[str, str | Iterable[str]] | None = None,
        max_message_size: int = MAX_MESSAGE_SIZE,
        *,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        secret_key: str | bytes | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        timeout: float = TIMEOUT,
        reconnect: bool | Iterable[float] = False,
    ) -> None:
        ids.install()
        current.install()
        server_url_for_websocket_url(websocket_url)  # raises BadAddress
        key = key_bytes(secret_key)
        self._options = ClientOptions(
            websocket_url=websocket_url,
            session_id=session_id_or_new(session_id, key),
            arguments=dict(arguments or {}),
            headers=dict(headers or {}),
            cookies=dict(cookies or {}),
            secret_key=key,
            max_message_size=max_message_size,
            connect_timeout=connect_timeout,
            timeout=timeout,
            delays=delays_of(reconnect),
        )
        self._pump = Pump(self._options, io_loop, self._take)
        self._link = BlockingLink(self._options, self._pump)
        self._exchange: Exchange | None = None
        self._failure: ClientError | None = None
        self._over = False

    # What it is

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link.connected

    @property
    def error_reason(self) -> ErrorReason | None:
        """Why the session is no longer connected; None while it is, and before it ever was."""
        if self._failure is None:
            return ErrorReason.NO_ERROR if self._over else None
        return ErrorReason.HTTP_ERROR if self.error_code else ErrorReason.NETWORK_ERROR

    @property
    def error_code(self) -> int | None:
        """The HTTP status with which the server refused the connection; 0 while there is no error."""
        if self._failure is None:
            return None if self._over else 0
        return getattr(self._failure, "status", None)

    @property
    def error_detail(self) -> str:
        """The error's text; empty while there is no error."""
        return "" if self._failure is None else str(self._failure)

    @property
    def url(self) -> str:
        """Of the websocket."""
        return self._options.websocket_url

    @property
    def document(self) -> Document:
        """The copy of the session's document; None until `pull` or `push` has succeeded."""
        exchange = self._exchange
        # Bokeh's class promises a document, too, and has none at first.
        return exchange.mirror.document if exchange is not None and exchange.mirror.filled else None  # type: ignore[return-value]

    @property
    def id(self) -> str:
        return self._options.session_id

    @property
    def token(self) -> str:
        """A fresh token that a page can open the session with."""
        return self._options.token()

    # What it does

    def connect(self) -> None:
        """Connect, if the session is not connected. Does not raise; `check_connection_errors` raises the error."""
        if self.connected or self._over:
            return
        self._learn_why()
        self._failure = None
        try:
            self._link.open()
        except ClientError as problem:
            self._failure = problem

    def check_connection_errors(self) -> None:
        """Raise the error of the connection, if the session is not connected.

        Raises:
            ClientError: why it is not connected.
        """
        self._raise_unless_connected()

    def pull(self) -> None:
        """Connect if need be, and replace the document's content by the server's. Models in both stay the same objects.

        Raises:
            ClientError: the server did not send it.
        """
        self.connect()
        self._start(Document())
        self._ask(lambda exchange: exchange.pull())
        self._pump.runs_callbacks = True

    def push(self, document: Document | None = None) -> None:
        """Replace the content of the server's document by this one's, or by the session's own. Connects if need be.

        Raises:
            ValueError: the session has another document already.
            ClientError: the server did not accept it.
        """
        own: Document | None = self.document
        if own is not None and document is not None and document is not own:
            raise ValueError("the session has another document already")
        self.connect()
        self._start(document if document is not None else Document())
        self._ask(lambda exchange: exchange.push())
        self._pump.runs_callbacks = True

    def request_server_info(self) -> dict[str, Any]:
        """The versions of the server and of its Bokeh."""
        content: dict[str, Any] = self._ask(lambda exchange: exchange.ask_server_info()).content
        return content

    def force_roundtrip(self) -> None:
        """Wait until the server has answered every local change, and apply what it has sent.

        Raises:
            RequestFailed: it answered one of the changes with an error.
            MessageTooLarge: one of the changes is larger than its limit.
            ClientError: it did not answer.
        """
        try:
            self._ask(lambda exchange: exchange.ask_server_info())
        except MessageTooLarge:
            if self._exchange is not None:
                self._exchange.take_failure()  # the same error, which the next call must not raise again
            raise
        exchange = self._exchange
        if exchange is None:
            raise AssertionError("it has just been asked")
        if exchange.phase is not Phase.APART:
            self._pump.wait(lambda: exchange.settled or self._link.detached, "did not answer all changes")
        failure = exchange.take_failure() or (None if self.connected else self._failure)
        if failure is not None:
            raise failure

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Send the changes of this block as one patch."""
        if self._exchange is None:
            raise SessionClosed("there is no document yet: pull or push first")
        with self._exchange.batch():
            yield

    def show(self, obj: UIElement | None = None, browser: str | None = None, new: BrowserTarget = "tab") -> None:
        """Open this session in a browser; `obj` is added to its document first, if it is not there."""
        if obj is not None and obj not in self.document.roots:
            self.document.add_root(obj)
        show_session(session=self, browser=browser, new=new)

    def close(self, why: str = "closed") -> None:
        """Leave the session; the document stays as it is. Idempotent."""
        if self._over:
            return
        self._send_the_rest()
        self._over = True
        self._link.close(why)
        if self._exchange is not None:
            self._exchange.cut_off(SessionClosed("the session has been closed"))
            self._exchange.close()

    def _give_up(self) -> None:
        """Close without waiting for a server that has not answered as it should."""
        self._link.abort("no document")
        self.close()

    def _send_the_rest(self) -> None:
        """Send the waiting changes, which would be lost; those in flight arrive before the close frame anyway."""
        exchange = self._exchange
        if exchange is None:
            return
        if self.connected:
            exchange.last_call()
            if not self._pump.loop.runs_here:
                with suppress(ServerSilent):
                    self._pump.wait(lambda: not exchange.unsent or not self.connected, "did not answer all changes")
        if exchange.unsent:
            log.warning("the last %d changes of session %s... were not sent", exchange.unsent, self.id[:8])

    def __enter__(self) -> ClientSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loop_until_closed(self) -> None:
        """Apply patches and run callbacks until the connection ends, or until Ctrl-C."""
        try:
            while self.connected:
                self._pump.turn(None)
        except KeyboardInterrupt:
            self.close("user interruption")

    # The connection

    def _start(self, document: Document) -> None:
        """Create the exchange, whose document may still be empty."""
        self._raise_unless_connected()
        if self._exchange is None or not self._exchange.mirror.attached:
            own: Document | None = self.document
            mirror = Mirror(document if own is None else own, self._changed, self._pump.agenda)
            self._exchange = Exchange(mirror, self._link.send, self._wake, self._options.max_message_size)

    def _ask(self, ask: Callable[[Exchange], Answer]) -> Message:
        """Send a request and wait for its answer; retry it on a new connection, because these are idempotent."""
        delays = iter(self._options.delays)  # of the whole call, not of each loss: so the call ends
        while True:
            self._pump.take_all()
            if not self.connected:
                self._reconnect(delays)
            if self._exchange is None:
                self._start(Document())
            answer = ask(self._exchange)  # type: ignore[arg-type]
            try:
                return self._answered(answer)
            except ServerGone:
                if not self._options.delays:
                    raise

    def _reconnect(self, delays: Iterator[float]) -> None:
        """Connect again and make the documents equal, or raise the last error."""
        if self._over or not self._options.delays or self._exchange is None:
            self._raise_unless_connected()
        self._learn_why()
        for delay in delays:
            self._pump.pause(delay)
            try:
                self._resume()
                return
            except ClientError as problem:
                self._link.abort(str(problem))
                self._lose(problem)
        self._failure = given_up(self._failure or SessionClosed("the session was never connected"))
        raise self._failure

    def _resume(self) -> None:
        self._link.open()
        self._failure = None
        exchange = self._exchange
        if exchange is not None and exchange.phase is not Phase.APART:
            self._answered(exchange.resume())

    def _answered(self, answer: Answer) -> Message:
        self._pump.wait(lambda: answer.done, "did not answer")
        return answer.result()

    def _raise_unless_connected(self) -> None:
        if not self.connected:
            self._learn_why()
            raise self._failure or SessionClosed("the session has been closed, or was never connected")

    def _learn_why(self) -> None:
        """Wait for the reason of a connection's end, which is queued behind all messages that arrived before."""
        self._pump.take_all()
        if not self._link.detached:
            with suppress(ServerSilent):
                self._pump.wait(lambda: self._link.detached, "did not say why", CLOSE_SECONDS)

    def _lose(self, problem: ClientError) -> None:
        self._link.detach()
        if self._over:
            return
        self._failure = problem
        if self._exchange is not None:
            self._exchange.cut_off(problem)
            if not self._options.delays:
                self._exchange.close()

    # What arrives

    def _take(self, item: Item) -> None:
        match item:
            case Message():
                self._receive(item)
            case Overrun():
                if self._exchange is not None:
                    self._exchange.overrun()
            case Ended():
                if self._link.is_present(item.link):
                    self._lose(item.problem)

    def _receive(self, message: Message) -> None:
        if self._exchange is None:
            return
        try:
            self._exchange.receive(message)
        except ClientError as problem:
            self._link.abort(str(problem))
            self._lose(problem)

    # What the document does

    def _changed(self, change: Change) -> None:
        if self._exchange is None:
            raise AssertionError("a mirror without an exchange")
        if not self._exchange.has_room_for(change):
            self._pump.take_all()
        self._exchange.changed(change)

    def _wake(self) -> None:
        exchange = self._exchange
        if exchange is None or self._link.detached:
            return
        if not exchange.ready_to_send:
            for answer in self._pump.inbox.take_answers():
                self._receive(answer)
        exchange.flush()
