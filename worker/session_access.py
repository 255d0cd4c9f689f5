"""How a request gets to its session, wherever that is: in this worker, newly made here, or in another worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from aperture.errors import OwnedElsewhere, OwnerGone
from aperture.protocol.allowance import USUAL_MESSAGE_SIZE
from aperture.protocol.tokens import Token
from aperture.wire.session_key import session_key_of
from aperture.worker.http.assets import Departures
from aperture.worker.http.render import ADDRESS, EARLY, LOADED, render, render_early
from aperture.worker.http.resources import PageResources
from aperture.worker.patch.viewer import Outbox, Viewer
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.attachment import Attachment, LocalAttachment
from aperture.worker.session.early import Making
from aperture.worker.session.host import AppHost
from aperture.worker.session.placement import Placement
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["Elsewhere", "Frame", "SessionAccess"]

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a request waits for a session whose owner does not answer. A dead one's sessions can be claimed after a
lease; a living one is busy with app code, and a request for a session of this worker would wait for that as well."""

PAUSE = 0.25
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A page, or a script, of a session that is being made here.

    Args:
        text: to send.
        making: the session, whose code is to `go` when it has been sent.
    """

    text: str
    making: Making


class Elsewhere(Protocol):
    """The way to sessions of other workers. Both calls raise OwnerGone when their owner does not answer."""

    async def enter(self, owner: str, arrival: Arrival, outbox: Outbox) -> Attachment: ...

    async def render(self, owner: str, arrival: Arrival, kind: str, arguments: dict[str, str]) -> bytes: ...


class SessionAccess:
    """Finds sessions for requests that have been let in.

    Args:
        store: the sessions that are here.
        placement: knows who has the others.
        resources: for rendering.
        elsewhere: the way to the others.
        departures: what is on its way out of this worker.
        arrived: called with each session here that a viewer has come to.
        max_message_size: of a viewer's messages, in bytes.
    """

    def __init__(
        self,
        store: SessionStore,
        placement: Placement,
        resources: PageResources,
        elsewhere: Elsewhere,
        departures: Departures,
        *,
        arrived: Callable[[Session], None] = lambda session: None,
        max_message_size: int = USUAL_MESSAGE_SIZE,
    ) -> None:
        self._store = store
        self._placement = placement
        self._resources = resources
        self._elsewhere = elsewhere
        self._departures = departures
        self._arrived = arrived
        self._max_message_size = max_message_size

    async def opens(self, token: Token, host: AppHost) -> bool:
        """Whether a verified token opens its session: its time is not up, or the session lives, here or elsewhere.

        A living session takes its own page back however old that is: Bokeh loses pages open for five minutes.

        Raises:
            BusDown: its time is up, and whether the session lives cannot be found out now.
        """
        return not token.expired(time.time()) or await self.lives(token.session_id, host)

    async def lives(self, session_id: str, host: AppHost) -> bool:
        """Whether the session is here, is being made, is elsewhere, or is stored. One whose app failed is tried again.

        Raises:
            BusDown: it is not here, and the rest cannot be found out now.
        """
        session_key = session_key_of(host.url, session_id)
        if self._store.find(host, session_id) or self._store.making(session_key) or self._store.failed(session_key):
            return True
        return await self._placement.lives(host.url, session_id)

    async def make(self, arrival: Arrival) -> None:
        """Make a session under an id that was made for it. It is unused from then on, until its page is asked for.

        For an early page it is only claimed: its code runs when the page has been sent.

        Raises:
            SessionGone: the worker is shutting down.
            BusDown: it cannot be claimed now.
        """
        await (self._store.begin if arrival.early else self._store.get_or_create)(arrival)

    async def loaded(self, arrival: Arrival, address: str) -> None:
        """An early page has the first of each of its scripts. Idempotent.

        The code of its session may keep the event loop, of whichever worker, once that has sent the rest of what it was
        sending to this address.

        No-op for a session that is made, or that nobody has.

        Raises:
            OwnerGone, BusDown: the session is elsewhere and cannot be reached.
        """
        if (making := self._store.making(arrival.session_key)) is not None:
            self._departures.when_gone(address, making.go)
        elif self._store.find(arrival.host, arrival.session_id) is None:
            owner = await self._placement.owner(arrival.app, arrival.session_id)
            if owner is not None:
                await self._elsewhere.render(owner, arrival, LOADED, {ADDRESS: address})

    async def render(self, arrival: Arrival, kind: str, arguments: Mapping[str, str]) -> str | bytes:
        """A page or a script for a session, made first if there is none.

        Args:
            arrival: the request.
            kind: `aperture.worker.http.render.PAGE`, `AUTOLOAD` or `FILE_OF`.
            arguments: as `aperture.worker.http.render.render` takes them.

        Raises:
            NotTheirs: it is, or was, another user's.
            SessionGone: the worker is shutting down.
            OwnerGone, BusDown: the session is elsewhere and cannot be reached.
        """

        async def here() -> str | bytes:
            return self._rendered(await self._store.get_or_create(arrival), arrival, kind, arguments)

        async def there(owner: str) -> str | bytes:
            return await self._elsewhere.render(owner, arrival, kind, dict(arguments))

        return await self._wherever(here, there)

    async def render_early(self, arrival: Arrival, kind: str, arguments: Mapping[str, str]) -> str | bytes | Frame:
        """As `render`, but a session that has to be made is only claimed, and its page is a frame.

        Raises:
            Exception: as `render`.
        """

        async def here() -> str | bytes | Frame:
            found = await self._store.begin(arrival)
            if not isinstance(found, Making):
                return self._rendered(found, arrival, kind, arguments)
            found.check_user(arrival.user)
            token = arrival.host.issue_token(arrival.session_id)
            return Frame(render_early(self._resources, found, token, kind, arguments), found)

        async def there(owner: str) -> str | bytes | Frame:
            return await self._elsewhere.render(owner, arrival, kind, {**arguments, EARLY: "1"})

        return await self._wherever(here, there)

    def _rendered(self, session: Session, arrival: Arrival, kind: str, arguments: Mapping[str, str]) -> str | bytes:
        session.check_user(arrival.user)
        session.expiry.touch()
        return render(self._resources, session, kind, arguments)

    async def enter(self, arrival: Arrival, outbox: Outbox) -> Attachment:
        """Attach a connection to its session, made first if there is none.

        Args:
            arrival: the connection's request.
            outbox: the connection's.

        Raises:
            SessionGone: the worker is shutting down.
            PageRefused: the connection is of an early page that cannot show the session.
            OwnerGone, BusDown: the session is elsewhere and cannot be reached.
        """

        async def here() -> Attachment:
            session = await self._store.get_or_create(arrival)
            session.pages.check(arrival.token)
            inline = session.pages.is_return(arrival.token, from_browser=arrival.from_browser)
            viewer = Viewer(outbox, arrival.token, inline_pulls=inline, max_message_size=self._max_message_size)
            attachment = LocalAttachment(session, viewer)
            self._arrived(session)
            return attachment

        async def there(owner: str) -> Attachment:
            return await self._elsewhere.enter(owner, arrival, outbox)

        return await self._wherever(here, there)

    async def _wherever(self, here: Callable[[], Awaitable[T]], there: Callable[[str], Awaitable[T]]) -> T:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                return await here()
            except OwnedElsewhere as elsewhere:
                owner = elsewhere.owner
            try:
                return await there(owner)
            except OwnerGone:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(PAUSE)
