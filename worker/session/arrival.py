"""A request that has been let in, on its way to its session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aperture.wire.session_key import session_key_of
from aperture.worker.session.host import AppHost, Origin

__all__ = ["Arrival"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """Who comes, to which session: the same for a session that is here, is made here, or is another worker's.

    Args:
        host: the app.
        session_id: of the session.
        origin: gives what a new session is made from; only called for one.
        fresh: the id was made for this request, so no other worker can have the session.
        user: for whom alone a page is; None: for anyone who has the session's id.
        token: what a connection came with; empty for a page.
        from_browser: the connection may be of a page that comes back, and is one if the session did not send it.
        early: a page that need not wait for its session.
    """

    host: AppHost
    session_id: str
    origin: Callable[[], Origin]
    fresh: bool = False
    user: str | None = None
    token: str = ""
    from_browser: bool = False
    early: bool = False

    @property
    def app(self) -> str:
        """The app's route."""
        return self.host.url

    @property
    def session_key(self) -> str:
        """The session's name in Redis and on the bus."""
        return session_key_of(self.host.url, self.session_id)
