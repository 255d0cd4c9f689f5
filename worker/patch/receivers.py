"""Who gets a batch beside the viewers of this worker: the session's journal, and its viewers in other workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from aperture.protocol.frames import FrameRun
from aperture.worker.patch.batch import Patch
from aperture.worker.patch.viewer import Viewer

__all__ = ["NO_AUDIENCE", "NO_JOURNAL", "Audience", "Journal"]


class Journal(Protocol):
    """Records the patches of one session. Calls never block or raise."""

    @property
    def writes(self) -> bool:
        """Whether anything is written at all."""
        ...

    @property
    def acknowledges(self) -> bool:
        """Whether answers wait until what they answer is safe."""
        ...

    def record(self, sequence: int, patch: Patch) -> None:
        """Write a patch down, soon."""
        ...

    def start_over(self) -> None:
        """A change could not be recorded: the journal no longer leads to the present state; begin with a snapshot."""
        ...

    def when_safe(self, act: Callable[[], None], refuse: Callable[[], None]) -> None:
        """Call `act` once all that was recorded so far is safe, in the order of these calls.

        If too many wait already, `refuse` is called instead.
        """
        ...


class Audience(Protocol):
    """The viewers of a session whose connections are in other workers, all together.

    Its cost to the session does not grow with their number. Calls keep their order; none blocks or raises.
    """

    @property
    def connections(self) -> int:
        """How many viewers there are."""
        ...

    @property
    def workers(self) -> int:
        """How many workers they are spread over."""
        ...

    @property
    def live(self) -> bool:
        """Whether any of them has the document."""
        ...

    def publish(
        self,
        sequence: int,
        everyone: FrameRun | None,
        variants: Mapping[Viewer, FrameRun | None],
        answered: Viewer | None,
    ) -> None:
        """Send a patch to all that have the document.

        Args:
            sequence: of the patch.
            everyone: the frames; None if there is nothing for everyone.
            variants: to some of them something else, or nothing, instead.
            answered: whose variant holds the answer to its oldest unanswered message.
        """
        ...

    def close(self, code: int, reason: str) -> None:
        """Close all their connections."""
        ...

    def abandon(self) -> None:
        """The session is another worker's: forget all viewers without a message, which its new owner serves."""
        ...


class _NoJournal:
    """The session ends with its worker, or is still being built."""

    writes = False
    acknowledges = False

    def record(self, sequence: int, patch: Patch) -> None:
        """No-op."""

    def start_over(self) -> None:
        """No-op."""

    def when_safe(self, act: Callable[[], None], refuse: Callable[[], None]) -> None:
        act()


class _NoAudience:
    """All viewers are in this worker."""

    connections = 0
    workers = 0
    live = False

    def publish(
        self,
        sequence: int,
        everyone: FrameRun | None,
        variants: Mapping[Viewer, FrameRun | None],
        answered: Viewer | None,
    ) -> None:
        """No-op."""

    def close(self, code: int, reason: str) -> None:
        """No-op."""

    def abandon(self) -> None:
        """No-op."""


NO_JOURNAL = _NoJournal()
NO_AUDIENCE = _NoAudience()
