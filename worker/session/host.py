"""One app in one worker: its Bokeh `Application`, its sessions and its lifecycle hooks."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from bokeh.application import Application
from bokeh.application.application import SessionContext
from bokeh.document import Document
from tornado.ioloop import IOLoop

from aperture.app_state import session_state
from aperture.document.ids import IdSequence
from aperture.errors import AppLoadError, StateMismatch
from aperture.inheritance import end_if_forked
from aperture.log_scope import short_id
from aperture.metrics import AppTally
from aperture.worker.app_threads import ON_LOOP, QUITTING, AppCode, contained
from aperture.worker.document.loading import failure_of, new_document
from aperture.worker.document.snapshot import fingerprint
from aperture.worker.document.teardown import take_apart
from aperture.worker.patch.pulls import Pulls
from aperture.worker.session.context import AppServerContext, AppSessionContext
from aperture.worker.session.early import Framing
from aperture.worker.session.framework import BOKEH, Framework
from aperture.worker.session.placement import NO_FENCE, Fence
from aperture.worker.session.session import Session
from aperture.worker.session.session_request import SessionRequest

__all__ = ["AppHost", "Origin", "Prepared"]

log = logging.getLogger(__name__)


Start = Callable[[Callable[[], None]], Awaitable[None]]
"""As `AppCode.start` and `AppCode.make`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a session is created from.

    Args:
        request: as the app will see it; None where there was none.
        payload: what `session_context.token_payload` shows.
        values: packed, that the app has kept with the session and finds in its `session_state`.
        user: the user it was created for, as text; None without a login.
    """

    request: SessionRequest | None
    payload: dict[str, Any]
    values: Mapping[str, bytes] = field(default_factory=dict)
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an app's code has made, before it is a session: no callback runs, and no change is sent to anybody."""

    document: Document
    context: AppSessionContext
    ids: IdSequence
    failed: bool = False
    """Whether a script has failed, which raises nothing: Bokeh's handler notes it."""
    made: str = ""
    """The document's fingerprint, where it was asked for."""


class AppHost:
    """Builds and takes down the sessions of one app.

    Args:
        url: the app's route without the prefix, `/` or `/name`.
        application: Bokeh's recipe for the app's documents.
        logout_url: shown to apps as `session_context.logout_url`.
        issue_token: makes a fresh token for a session id.
        framework: that the app is written with.
        framing: learns whether its pages can be sent before their sessions; without it they are not.
        pulls: shared by the worker's sessions.
        tally: counts what its sessions do.
        code: runs the app's code.
        clock: seconds that only grow; for who changed what lately.
    """

    def __init__(
        self,
        url: str,
        application: Application,
        *,
        logout_url: str | None,
        issue_token: Callable[[str], str],
        framework: Framework = BOKEH,
        framing: Framing | None = None,
        pulls: Pulls | None = None,
        tally: AppTally | None = None,
        code: AppCode = ON_LOOP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.application = application
        self.sessions_by_id: dict[str, Session] = {}
        self.server_context = AppServerContext(self)
        self.tally = tally or AppTally.unread(url)
        """Counts what its sessions do."""
        self.framing = framing or Framing(url, wanted=False)
        self._logout_url = logout_url
        self.issue_token = issue_token
        self._pulls = pulls or Pulls()
        self._code = code
        self._clock = clock
        self.framework = framework
        framework.adopt(application)

    @property
    def _url(self) -> str:
        """Bokeh's name for the route, which Panel's `Application` reads."""
        return self.url

    @property
    def sessions(self) -> Iterable[Session]:
        return self.sessions_by_id.values()

    @property
    def io_loop(self) -> IOLoop:
        return IOLoop.current()

    def load(self) -> None:
        """Run the `on_server_loaded` hooks, and with them a directory app's `__init__.py`.

        Raises:
            AppLoadError: the app's package cannot be loaded. A hook that raises is only logged, as in Bokeh.
        """
        problem = None
        try:
            self.application.on_server_loaded(self.server_context)
        except Exception as raised:
            problem = raised
        failure = failure_of(self.application)
        if failure is not None:
            raise AppLoadError(self.url, failure) from problem
        if problem is not None:
            log.error("on_server_loaded of %s failed", self.url, exc_info=problem)

    def unload(self) -> None:
        """Run the `on_server_unloaded` hooks."""
        try:
            self.application.on_server_unloaded(self.server_context)
        except Exception:
            log.exception("on_server_unloaded of %s failed", self.url)

    async def build(
        self,
        session_id: str,
        origin: Origin,
        *,
        epoch: int = 1,
        fence: Fence = NO_FENCE,
        inherited: bool = False,
    ) -> Session:
        """Run the hooks and the app's code, as `prepare`, and `finish` the session."""
        return self.finish(await self.prepare(session_id, origin), epoch=epoch, fence=fence, inherited=inherited)

    @property
    def threaded(self) -> bool:
        """Whether the app's code runs in threads."""
        return self._code.threaded

    async def prepare(self, session_id: str, origin: Origin, *, marked: bool = False) -> Prepared:
        """Run the hooks and the app's code.

        Args:
            session_id: of the new session.
            origin: what it is created from.
            marked: whether to take the document's fingerprint as well.

        Raises:
            StateMismatch: the app's code fails with the values it has kept; nothing is left of the session.
            Exception: what a function app raises. A script's error is logged and leaves the page empty, as in Bokeh.
        """
        ids = IdSequence(session_id, self.url)
        # Until it is published: what is laid over the document may refer to models that the app has made and not added
        # yet.
        ids.made = WeakValueDictionary()
        with ids.active():
            document = new_document()
        context = AppSessionContext(
            session_id,
            self.server_context,
            document,
            request=self.framework.request(origin.request, origin.payload),
            token_payload=origin.payload,
            logout_url=self._logout_url,
        )
        # Weak, as in Bokeh: the context holds the document.
        document._session_context = weakref.ref(context)
        # Before the app's code, which may build its document from them.
        session_state(document).lay(origin.values)
        try:
            # The same ids in the same order each time the code runs: recovery lays a stored document over the one made
            # then.
            with ids.active():
                # Before the code, and on its own: a hook that fails is logged, and the session is made, as in Bokeh.
                await self._run_hook("on_session_created", context, self._code.make)
                fill = partial(self._fill, document, from_values=bool(origin.values), marked=marked)
                failed, made = await self._code.make(fill) if self._code.threaded else fill()
        except asyncio.CancelledError:
            raise  # the worker ends; a thread may still be in the document
        except BaseException:
            _take_apart(document)
            raise
        return Prepared(document, context, ids, failed, made)

    def finish(
        self,
        prepared: Prepared,
        *,
        epoch: int = 1,
        fence: Fence = NO_FENCE,
        user: str | None = None,
        inherited: bool = False,
    ) -> Session:
        """Make a session of what the app's code has made. `publish` lets others have it.

        Args:
            prepared: what the code has made.
            epoch: of the claim.
            fence: asked before each hold whether the session is still this worker's.
            user: it is for, as text; None where users have no names.
            inherited: whether the id is older than this session.
        """
        context = prepared.context
        session = Session(
            context.id,
            prepared.document,
            ids=prepared.ids,
            issue_token=self.issue_token,
            app=self.url,
            context=context,
            epoch=epoch,
            fence=fence,
            user=user,
            inherited=inherited,
            framework=self.framework,
            pulls=self._pulls,
            tally=self.tally,
            code=self._code,
            clock=self._clock,
        )
        context._session = session
        return session

    def publish(self, session: Session) -> None:
        """Let requests find a session that was built."""
        # Everything that recovery looks for by id has been laid by now.
        session.held.ids.made = None
        # Where making it has taken longer than an unused session lives, it would be discarded, and what is stored of it
        # deleted, before those who wait for it have entered.
        session.expiry.touch()
        self.framing.learn(session.document)
        self.sessions_by_id[session.id] = session

    async def abandon(self, session: Session) -> None:
        """Take down a session that was built and cannot be published."""
        # Hooks first: they may look at the document.
        await self.retire(session)
        _take_apart(session.document)

    def _fill(self, document: Document, *, from_values: bool, marked: bool) -> tuple[bool, str]:
        """Run the app's code; returns whether a script has failed, which raises nothing and leaves the page empty.

        And the fingerprint of what it has made, if that is marked.

        Values that it has kept and cannot deal with, perhaps because it is newer than they are, must not keep the
        session from ever being created.
        """
        try:
            self.application.initialize_document(document)
        except (Exception, *QUITTING) as problem:
            if from_values:
                raise StateMismatch(f"the app's code fails with its values: {type(problem).__name__}") from problem
            if isinstance(problem, QUITTING):
                raise contained(problem) from problem
            raise
        # Asked here, and not later: the next session's code takes its place.
        failed = failure_of(self.application) is not None
        if from_values and failed:
            raise StateMismatch("the app's code fails with its values")
        self.framework.made(document)
        return failed, fingerprint(document) if marked else ""

    async def retire(self, session: Session) -> None:
        """Stop the session and run its `on_session_destroyed` hooks. Its lock must be held, or no user be left."""
        self.withdraw(session)
        await self.tell_destroyed(session)

    def withdraw(self, session: Session) -> None:
        """Stop the session, and let no request find it any more. Idempotent."""
        session.destroy()
        if self.sessions_by_id.get(session.id) is session:  # it may have been claimed and built anew meanwhile
            del self.sessions_by_id[session.id]

    async def tell_destroyed(self, session: Session) -> None:
        """Run the `on_session_destroyed` hooks of a session that is stopped. Idempotent."""
        # It holds the session: without this a cycle would wait for the garbage collector.
        context, session.context = session.context, None
        if context is not None:
            await self._run_hook("on_session_destroyed", context, self._code.start)
            self.framework.discard(session.document)

    async def _run_hook(self, name: str, context: SessionContext, start: Start) -> None:
        hook = getattr(self.application, name)
        try:
            if self._code.threaded and not self._awaits(name):
                await start(partial(_run, hook, context))
            else:
                await hook(context)
        # Also `sys.exit`, which would end the worker and all other sessions in it.
        except (Exception, SystemExit) as problem:
            end_if_forked(problem)
            log.exception("%s of %s failed for session %s", name, self.url, short_id(context.id))

    def _awaits(self, hook: str) -> bool:
        """Whether a handler may await something in this hook. Bokeh's own are async, but only call the function."""
        return any(
            not getattr(type(handler), hook).__module__.startswith(("bokeh.", "aperture."))
            for handler in self.application.handlers
        )


def _run(hook: Callable[[SessionContext], Coroutine[Any, Any, None]], context: SessionContext) -> None:
    """Run a hook that awaits nothing; there is no event loop here."""
    coroutine = hook(context)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("a hook that awaits something runs on the event loop")


def _take_apart(document: Document) -> None:
    for _ in take_apart(document):
        pass
