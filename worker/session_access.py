"""How a request gets to its session, wherever that is: in this worker, newly made here, or in another worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from aperture.errors import OwnedElsewhere, OwnerGone
from aperture.protocol.allowance import USUAL_MESSAGE_SIZE
from aperture.protocol.tokens import Token
from aperture.worker.http.render import render
from aperture.worker.http.resources import PageResources
from aperture.worker.patch.viewer import Outbox, Viewer
from aperture.worker.session.attachment import Attachment, LocalAttachment
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import Placement
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["Door", "Elsewhere"]

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a request waits for a session whose owner does not answer. A dead one's sessions can be claimed after a
lease; a living one is busy with app code, and a request for a session of this worker would wait for that as well."""

PAUSE = 0.25
"""Seconds between two attempts."""


class Elsewhere(Protocol):
    """The way to sessions of other workers. Both calls raise OwnerGone when their owner does not answer."""

    async def enter(
        self, owner: str, app: str, session_id: str, outbox: Outbox, token: str, *, inline: bool
    ) -> Attachment: ...

    async def render(self, owner: str, app: str, session_id: str, kind: str, arguments: dict[str, str]) -> bytes: ...


class Door:
    """Finds sessions for requests that have been let in.

    Args:
        store: the sessions that are here.
        placement: knows who has the others.
        resources: for rendering.
        elsewhere: the way to the others; None where there are none.
        arrived: told of each session here that a viewer has come to.
        max_message_size: of a viewer's messages, in bytes.
    """

    def __init__(
        self,
        store: SessionStore,
        placement: Placement,
        resources: PageResources,
        elsewhere: Elsewhere | None,
        *,
        arrived: Callable[[Session], None] = lambda session: None,
        max_message_size: int = USUAL_MESSAGE_SIZE,
    ) -> None:
        self._store = store
        self._placement = placement
        self._resources = resources
        self._elsewhere = elsewhere
        self._arrived = arrived
        self._max_message_size = max_message_size

    async def opens(self, token: Token, host: AppHost) -> bool:
        """Whether a verified token opens its session: its time is not up, or the session lives, here or elsewhere.

        A living session takes its own page back however old that is: Bokeh loses pages open for five minutes.

        Raises:
            BusDown: its time is up, and whether the session lives cannot be found out now.
        """
        if not token.expired(time.time()) or self._store.find(host, token.session_id) is not None:
            return True
        return await self._placement.lives(host.url, token.session_id)

    async def render(
        self,
        host: AppHost,
        session_id: str,
        origin: Callable[[], Origin],
        kind: str,
        arguments: Mapping[str, str],
        *,
        fresh: bool,
    ) -> str | bytes:
        """A page or a script for a session, made first if there is none.

        Args:
            host: the app.
            session_id: of the session.
            origin: what a new session is created from; only asked for one.
            kind: `aperture.worker.http.render.PAGE` or `AUTOLOAD`.
            arguments: as `aperture.worker.http.render.render` takes them.
            fresh: the id was made for this request.

        Raises:
            SessionGone: the worker is shutting down.
            OwnerGone, BusDown: the session is elsewhere and cannot be reached.
        """

        async def here(session: Session) -> str | bytes:
            session.touch()
            return render(self._resources, session, kind, arguments)

        async def there(owner: str) -> str | bytes:
            return await self._way().render(owner, host.url, session_id, kind, dict(arguments))

        return await self._wherever(host, session_id, origin, here, there, fresh=fresh)

    async def enter(
        self,
        host: AppHost,
        session_id: str,
        origin: Callable[[], Origin],
        outbox: Outbox,
        token: str,
        *,
        from_browser: bool,
    ) -> Attachment:
        """Attach a connection to its session, made first if there is none.

        Args:
            host: the app.
            session_id: of the session.
            origin: what a new session is created from; only asked for one.
            outbox: the connection's.
            token: what it connected with.
            from_browser: it may be a page that comes back, and is one if the session did not send it.

        Raises:
            SessionGone: the worker is shutting down.
            OwnerGone, BusDown: the session is elsewhere and cannot be reached.
        """

        async def here(session: Session) -> Attachment:
            inline = session.is_return(token, from_browser=from_browser)
            viewer = Viewer(outbox, token, inline_pulls=inline, max_message_size=self._max_message_size)
            attachment = LocalAttachment(session, viewer)
            self._arrived(session)
            return attachment

        async def there(owner: str) -> Attachment:
            return await self._way().enter(owner, host.url, session_id, outbox, token, inline=False)

        return await self._wherever(host, session_id, origin, here, there, fresh=False)

    async def _wherever(
        self,
        host: AppHost,
        session_id: str,
        origin: Callable[[], Origin],
        here: Callable[[Session], Awaitable[T]],
        there: Callable[[str], Awaitable[T]],
        *,
        fresh: bool,
    ) -> T:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                session = self._store.find(host, session_id)
                if session is None:
                    session = await self._store.get_or_create(host, session_id, origin(), fresh=fresh)
                return await here(session)
            except OwnedElsewhere as elsewhere:
                owner = elsewhere.owner
            try:
                return await there(owner)
            except OwnerGone:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(PAUSE)

    def _way(self) -> Elsewhere:
        if self._elsewhere is None:
            raise AssertionError("a placement that knows other workers comes with a way to them")
        return self._elsewhere
