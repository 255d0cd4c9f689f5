"""The client for code without an event loop: `bokeh.client`'s functions and its `ClientSession`, blocking.

The connection lives in a thread of its own (`aperture.client.background`), so these calls also work where a loop is
running already. The document belongs to the caller: what the server sends is applied, and the document's timed
callbacks run, in the calling thread and only during a blocking call (`pull`, `push`, `force_roundtrip`,
`request_server_info`, `connect`), as with Bokeh's client. What is changed here is sent at once. Whoever uses one
session from several threads must see to it that only one does at a time. A loop that the caller gives, and that does
not run, is run by these calls while they wait (`aperture.client.callers_loop`), because the server may be on it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from enum import Enum, auto
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from bokeh.document import Document

from aperture.client import background
from aperture.client.callers_loop import AnyLoop, CallersLoop
from aperture.client.connect_options import (
    CONNECT_TIMEOUT,
    MAX_MESSAGE_SIZE,
    TIMEOUT,
    ClientOptions,
    delays_of,
    key_bytes,
    session_id_or_new,
)
from aperture.client.incoming import Ended, Inbox, Item, Overrun
from aperture.client.mirror import Change, Mirror
from aperture.client.refusals import given_up
from aperture.client.sync_protocol import Answer, Exchange, Phase
from aperture.client.timers import Agenda, Entry
from aperture.client.urls import (
    DEFAULT_WEBSOCKET_URL,
    app_url,
    server_url_for_websocket_url,
    websocket_url_for_server_url,
)
from aperture.client.websocket import CLOSE_SECONDS, Link
from aperture.document import current, ids
from aperture.errors import (
    ClientError,
    LoopBlocked,
    MessageTooLarge,
    ServerGone,
    ServerSilent,
    SessionClosed,
)
from aperture.protocol.messages import Message, Request

if TYPE_CHECKING:
    from bokeh.models.ui import UIElement
    from bokeh.util.browser import BrowserLike, BrowserTarget

__all__ = ["DEFAULT_SESSION_ID", "ClientSession", "ErrorReason", "pull_session", "push_session", "show_session"]

log = logging.getLogger(__name__)

DEFAULT_SESSION_ID = "default"


class ErrorReason(Enum):
    """Why a session is not connected any more."""

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
    """Open a session, or make one, with the server's document in it.

    Args:
        session_id: None for a new one; its `id` tells.
        url: of the app, or `"default"` for a local server's root.
        io_loop: run while a call waits, if it does not run already; the connection has a loop of its own.
        arguments: for the app's code, if the session is new.
        max_message_size: bytes of one message, in either direction.
        more: further arguments of `ClientSession`.

    Raises:
        ClientError: there is no session to be had; the class and the text say why.
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
    """Open a session, or make one, and make its document this one.

    Args:
        document: becomes the session's `document`.
        session_id: None for a new one; its `id` tells.
        url: of the app, or `"default"` for a local server's root.
        io_loop: run while a call waits, if it does not run already; the connection has a loop of its own.
        max_message_size: bytes of one message, in either direction.
        more: further arguments of `ClientSession`.

    Raises:
        ClientError: there is no session to be had; the class and the text say why.
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
    """Open a browser with a session in it.

    Args:
        session_id: None for a new one. Not used with `session`.
        url: of the app. Not used with `session`.
        session: to be shown.
        browser: its name, as in the standard library's `webbrowser`.
        new: `"tab"` or `"window"`.
        controller: opens the page in the place of a browser.
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
        io_loop: run while a call waits, if it does not run already; the connection has a loop of its own.
        arguments: for the app's code, if the session is new.
        max_message_size: bytes of one message, in either direction.
        headers: to be sent with the handshake.
        cookies: to be sent with the handshake, by name.
        secret_key: signs the token; without one that of `BOKEH_SECRET_KEY`, if it is set, does.
        connect_timeout: seconds until the websocket is open.
        timeout: seconds until anything else is answered.
        reconnect: whether a call that finds the connection lost makes a new one, or the seconds before each attempt.
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
        server_url_for_websocket_url(websocket_url)  # complains of what is none
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
        self._loop = CallersLoop(io_loop)
        self._inbox = Inbox(on_news=self._loop.ring)
        self._agenda = Agenda(time.monotonic, self._inbox.wake)
        self._exchange: Exchange | None = None
        self._link: Link | None = None
        self._unclosed: weakref.finalize[..., ClientSession] | None = None
        """Ends the connection of a session that nobody has closed, or can any more."""
        self._failure: ClientError | None = None
        self._over = False
        self._opened = False
        """A first `pull` or `push` has returned. Timed callbacks wait for it, since they may use what it is part of."""

    # What it is

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None and not self._link.ended

    @property
    def error_reason(self) -> ErrorReason | None:
        """Why it is not connected any more; None while it is, and before it ever was."""
        if self._failure is None:
            return ErrorReason.NO_ERROR if self._over else None
        return ErrorReason.HTTP_ERROR if self.error_code else ErrorReason.NETWORK_ERROR

    @property
    def error_code(self) -> int | None:
        """The HTTP status that the server refused the connection with; 0 while nothing is wrong."""
        if self._failure is None:
            return None if self._over else 0
        return getattr(self._failure, "status", None)

    @property
    def error_detail(self) -> str:
        """What is wrong, in words; empty while nothing is."""
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
        """Connect, if it is not connected. What goes wrong is for `check_connection_errors` to tell."""
        if self.connected or self._over:
            return
        self._learn_why()
        self._failure = None
        try:
            self._link = self._open_link()
        except ClientError as problem:
            self._failure = problem

    def check_connection_errors(self) -> None:
        """Raise what is wrong, if it is not connected.

        Raises:
            ClientError: what is wrong.
        """
        self._raise_unless_connected()

    def pull(self) -> None:
        """Make the document what the server's is now. Connects if need be. Models in both stay the same objects.

        Raises:
            ClientError: it could not be had.
        """
        self.connect()
        self._start(Document())
        self._ask(lambda exchange: exchange.pull())
        self._opened = True

    def push(self, document: Document | None = None) -> None:
        """Make the server's document this one, or what the session's own is now. Connects if need be.

        Raises:
            ValueError: the session has another document already.
            ClientError: it could not be given.
        """
        own: Document | None = self.document
        if own is not None and document is not None and document is not own:
            raise ValueError("the session has another document already")
        self.connect()
        self._start(document if document is not None else Document())
        self._ask(lambda exchange: exchange.push())
        self._opened = True

    def request_server_info(self) -> dict[str, Any]:
        """The versions of the server and of its Bokeh."""
        content: dict[str, Any] = self._ask(lambda exchange: exchange.ask_server_info()).content
        return content

    def force_roundtrip(self) -> None:
        """Wait until the server has answered everything that was changed here, and apply what it has sent.

        Raises:
            RequestFailed: it answered one of the changes with an error.
            MessageTooLarge: one of the changes is larger than it takes.
            ClientError: it did not answer.
        """
        try:
            self._ask(lambda exchange: exchange.ask_server_info())
        except MessageTooLarge:
            if self._exchange is not None:
                self._exchange.take_failure()  # the same
            raise
        exchange = self._exchange
        if exchange is None:
            raise AssertionError("it has just been asked")
        if exchange.phase is not Phase.APART:
            self._wait(lambda: exchange.settled or self._link is None, "did not answer all changes")
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
        """Open a browser with this session in it; `obj` is added to its document first, if it is not there."""
        if obj is not None and obj not in self.document.roots:
            self.document.add_root(obj)
        show_session(session=self, browser=browser, new=new)

    def close(self, why: str = "closed") -> None:
        """Leave the session; the document stays as it is. Harmless twice."""
        if self._over:
            return
        self._send_the_rest()
        self._over = True
        link = self._let_go()
        if link is not None:
            self._say_goodbye(link, why)
        if self._exchange is not None:
            self._exchange.cut_off(SessionClosed("the session has been closed"))
            self._exchange.close()

    def _say_goodbye(self, link: Link, why: str) -> None:
        closing = background.submit(link.close(why))
        if self._loop.runs_here:
            return  # the server may be on this loop, and answers when the caller has returned
        try:
            self._loop.result(closing, CLOSE_SECONDS + 1)
        except TimeoutError:
            log.debug("the server did not say goodbye")

    def _give_up(self) -> None:
        """Close without waiting for a server that has not given what it should."""
        self._abort_link("no document")
        self.close()

    def _abort_link(self, why: str) -> None:
        link = self._let_go()
        if link is not None:
            background.call(link.abort, why)

    def _let_go(self) -> Link | None:
        link, self._link = self._link, None
        if self._unclosed is not None:
            self._unclosed.detach()
        return link

    def _send_the_rest(self) -> None:
        """What gathered while much was under way would be lost; what was sent arrives before the goodbye."""
        exchange = self._exchange
        if exchange is None:
            return
        if self.connected:
            exchange.last_call()
            if not self._loop.runs_here:
                with suppress(ServerSilent):
                    self._wait(lambda: not exchange.unsent or not self.connected, "did not answer all changes")
        if exchange.unsent:
            log.warning("the last %d changes of session %s... were not sent", exchange.unsent, self.id[:8])

    def __enter__(self) -> ClientSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loop_until_closed(self) -> None:
        """Apply what comes and run callbacks until the connection ends, or somebody types Ctrl-C."""
        try:
            while self.connected:
                self._turn(None)
        except KeyboardInterrupt:
            self.close("user interruption")

    # The connection

    def _open_link(self) -> Link:
        opening = background.submit(Link.open(self._options))
        opening.add_done_callback(lambda _: self._inbox.wake())
        patience = self._options.connect_timeout + self._options.timeout + CLOSE_SECONDS
        try:
            self._wait(opening.done, "could not be reached", patience)
        except BaseException:
            opening.add_done_callback(_close_late)
            raise
        try:
            link = opening.result()
        except ServerSilent as problem:
            raise _blocked(problem) from None
        background.submit(_deliver(link, self._inbox))
        self._unclosed = weakref.finalize(self, _forgotten, link, self.id[:8], os.getpid())
        self._unclosed.atexit = False  # then nobody has forgotten it: the program ends
        return link

    def _start(self, document: Document) -> None:
        """Have an exchange, which may be without a document so far."""
        self._raise_unless_connected()
        if self._exchange is None or not self._exchange.mirror.attached:
            own: Document | None = self.document
            mirror = Mirror(document if own is None else own, self._changed, self._agenda)
            self._exchange = Exchange(mirror, self._send, self._wake, self._options.max_message_size)

    def _ask(self, ask: Callable[[Exchange], Answer]) -> Message:
        """Ask and wait, over a lost connection if there may be another one: what is asked here may be asked twice."""
        delays = iter(self._options.delays)  # for all of this call, which so has an end
        while True:
            self._take_all()
            if not self.connected:
                self._come_back(delays)
            if self._exchange is None:
                self._start(Document())
            answer = ask(self._exchange)  # type: ignore[arg-type]
            try:
                return self._answered(answer)
            except ServerGone:
                if not self._options.delays:
                    raise

    def _come_back(self, delays: Iterator[float]) -> None:
        """Connect again and make the documents equal, or raise why not."""
        if self._over or not self._options.delays or self._exchange is None:
            self._raise_unless_connected()
        self._learn_why()
        for delay in delays:
            self._wait_for(delay)
            try:
                self._resume()
                return
            except ClientError as problem:
                self._abort_link(str(problem))
                self._lose(problem)
        self._failure = given_up(self._failure or SessionClosed("the session was never connected"))
        raise self._failure

    def _resume(self) -> None:
        self._link = self._open_link()
        self._failure = None
        exchange = self._exchange
        if exchange is not None and exchange.phase is not Phase.APART:
            self._answered(exchange.resume())

    def _answered(self, answer: Answer) -> Message:
        self._wait(lambda: answer.done, "did not answer")
        return answer.result()

    def _raise_unless_connected(self) -> None:
        if not self.connected:
            self._learn_why()
            raise self._failure or SessionClosed("the session has been closed, or was never connected")

    def _learn_why(self) -> None:
        """The end of a connection is known a moment before its reason, which comes behind all that had arrived."""
        self._take_all()
        if self._link is not None:
            with suppress(ServerSilent):
                self._wait(lambda: self._link is None, "did not say why", CLOSE_SECONDS)

    def _lose(self, problem: ClientError) -> None:
        self._let_go()
        if self._over:
            return
        self._failure = problem
        if self._exchange is not None:
            self._exchange.cut_off(problem)
            if not self._options.delays:
                self._exchange.close()

    # Waiting

    def _wait(self, until: Callable[[], bool], what: str, patience: float | None = None) -> None:
        seconds = self._options.timeout if patience is None else patience
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= deadline:
                raise _blocked(ServerSilent(f"the server at {self.url} {what} within {seconds:g} s"))
            self._turn(deadline)

    def _wait_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._turn(until)

    def _turn(self, until: float | None) -> None:
        """Take one thing that has arrived, or wait for one, and run the callbacks that are due."""
        due = self._agenda.next_due() if self._opened else None
        limit = until if due is None else due if until is None else min(due, until)
        item = self._next_item(limit)
        if item is not None:
            self._take(item)
        for entry in self._agenda.take_due() if self._opened else ():
            self._run_callback(entry)

    def _next_item(self, until: float | None) -> Item | None:
        if not self._loop.rests:
            return self._inbox.get(until)
        self._loop.run_until_rung(until if self._inbox.empty else 0)
        return self._inbox.get(0)

    def _take_all(self) -> None:
        while (item := self._inbox.get(0)) is not None:
            self._take(item)

    def _take(self, item: Item) -> None:
        match item:
            case Message():
                self._receive(item)
            case Overrun():
                if self._exchange is not None:
                    self._exchange.overrun()
            case Ended():
                if item.link is self._link:  # and not one that was given up before
                    self._lose(item.problem)

    def _receive(self, message: Message) -> None:
        if self._exchange is None:
            return
        try:
            self._exchange.receive(message)
        except ClientError as problem:
            self._abort_link(str(problem))
            self._lose(problem)

    def _run_callback(self, entry: Entry) -> None:
        started = time.monotonic()
        try:
            result = entry.callback()
            if inspect.isawaitable(result):
                self._loop.run(result)
        except Exception:
            log.exception("a timed callback of the document failed")
        self._agenda.finished(entry, started)

    # What the document does

    def _changed(self, change: Change) -> None:
        if self._exchange is None:
            raise AssertionError("a mirror without an exchange")
        if not self._exchange.has_room_for(change):
            self._take_all()
        self._exchange.changed(change)

    def _wake(self) -> None:
        exchange = self._exchange
        if exchange is None or self._link is None:
            return
        if not exchange.ready_to_send:
            for answer in self._inbox.take_answers():
                self._receive(answer)
        exchange.flush()

    def _send(self, request: Request) -> None:
        if self._link is not None:
            background.call(self._link.send, request)


async def _deliver(link: Link, inbox: Inbox) -> None:
    """Put what arrives into the inbox until the connection ends, and why it has ended behind it."""
    try:
        while True:
            inbox.put(await link.receive(), link.size)
    except ClientError as problem:
        inbox.put(Ended(link, problem))


def _forgotten(link: Link, name: str, pid: int) -> None:
    """End a connection whose session is garbage. May run anywhere, also in a child of the process that has it."""
    if not link.ended and pid == os.getpid():
        background.call(link.abort, "forgotten")
        warnings.warn(f"session {name}... was never closed", ResourceWarning, stacklevel=2)


def _close_late(opening: Future[Link]) -> None:
    """Nobody waits for this connection any more."""
    if not opening.cancelled() and opening.exception() is None:
        background.submit(opening.result().close("too late"))


def _blocked(problem: ServerSilent) -> ServerSilent:
    """The problem, with what may have caused it if an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return problem
    return LoopBlocked(
        f"{problem}. This call blocks the event loop that runs in this thread: if the server runs on that loop, it"
        " cannot answer. There, use `await aperture.client.connect(...)`, or `async with`"
    )
