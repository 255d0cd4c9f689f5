"""The interface through which a session outlives its worker, and the null object without it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from aperture.worker.session.host import Origin

if TYPE_CHECKING:
    from aperture.worker.session.session import Session

__all__ = ["Lost", "NoRecovery", "Recoverable", "Recovery"]


Lost = Callable[["Session"], Awaitable[None]]
"""Drops a session that another worker has claimed."""


class Recoverable(Protocol):
    """A session that another worker had."""

    @property
    def origin(self) -> Origin:
        """What the app's code must run with."""
        ...

    @property
    def remade(self) -> bool:
        """Whether the app's code has made another document than then, from the values that it stored."""
        ...

    async def restore(self, session: Session) -> None:
        """Bring a session whose app code has just run to the stored state.

        Raises:
            StateMismatch: it does not fit; the session must be discarded then.
        """
        ...


class Recovery(Protocol):
    """Stores the sessions of a worker, and finds those that others have stored."""

    @property
    def enabled(self) -> bool:
        """Whether anything is stored at all."""
        ...

    async def find(self, app: str, session_id: str) -> Recoverable | None:
        """The stored state of a session that has just been claimed.

        Raises:
            BusDown: unknown.
        """
        ...

    async def exists(self, app: str, session_id: str) -> bool:
        """Whether a session could be built again."""
        ...

    async def watch(self, session: Session, origin: Origin, made: str, *, again: bool, lost: Lost) -> None:
        """Store this session from now on; `made` is the fingerprint of what the app's code made.

        `lost` is called when it turns out to be another worker's.

        A session that was stored before is, when this returns, stored as it is now, if that can be had in a moment.

        Raises:
            SessionGone: it was stored before, and has been claimed by another meanwhile.
        """
        ...

    def restored(self, session: Session) -> None:
        """A stored session was rebuilt here."""
        ...

    def remade(self, session: Session) -> None:
        """A stored session continues here with a document that its app has made from its values."""
        ...

    def failed(self, app: str, session_id: str, problem: Exception) -> None:
        """A stored session could not be rebuilt and starts afresh."""
        ...

    async def forget(self, session: Session) -> None:
        """The session has come to its end in good order."""
        ...

    async def write_down(self, session: Session) -> bool:
        """Write the pending patches of a session. Returns whether all of it is stored."""
        ...

    def drop(self, session: Session) -> None:
        """Another worker has claimed the session."""
        ...

    async def touch(self) -> None:
        """Extend the lifetime of what is stored, and store again what Redis has lost. Called now and then."""
        ...

    async def flush(self, timeout: float) -> None:
        """Write everything that is pending, for the end of the worker, in so many seconds at most."""
        ...


class NoRecovery:
    """Sessions end with their worker (`--durability none`)."""

    enabled = False

    async def find(self, app: str, session_id: str) -> Recoverable | None:
        return None

    async def exists(self, app: str, session_id: str) -> bool:
        return False

    async def watch(self, session: Session, origin: Origin, made: str, *, again: bool, lost: Lost) -> None:
        """No-op."""

    def restored(self, session: Session) -> None:
        raise AssertionError("nothing is stored")

    def remade(self, session: Session) -> None:
        raise AssertionError("nothing is stored")

    def failed(self, app: str, session_id: str, problem: Exception) -> None:
        raise AssertionError("nothing is stored")

    async def forget(self, session: Session) -> None:
        """No-op."""

    async def write_down(self, session: Session) -> bool:
        return False

    def drop(self, session: Session) -> None:
        """No-op."""

    async def touch(self) -> None:
        """No-op."""

    async def flush(self, timeout: float) -> None:
        """No-op."""
