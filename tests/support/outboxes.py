"""What stands in for an outbox: it takes every patch, until a test says that its socket is full."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from aperture.protocol.frames import FrameRun
from aperture.worker.patch.viewer import Offer

__all__ = ["PlayedOutbox"]


class PlayedOutbox:
    """The part of an `aperture.worker.patch.viewer.Outbox` that is about its socket."""

    full = False
    """Whether patches are refused; set by `fill`."""
    behind = False
    _drained: Callable[[], None] | None = None

    @abstractmethod
    def send(self, run: FrameRun) -> None: ...

    def fill(self) -> None:
        """The socket takes nothing more."""
        self.full = True

    def drain(self) -> None:
        """The socket has taken all that waited."""
        self.full = False
        drained, self._drained = self._drained, None
        if drained is not None:
            drained()

    # Outbox

    def offer(self, run: FrameRun) -> Offer:
        if self.full or self.behind:
            self.behind = True
            return Offer.REFUSED
        self.send(run)
        return Offer.WRITTEN

    def when_drained(self, act: Callable[[], None]) -> None:
        if self.full:
            self._drained = act
        else:
            act()

    def resume(self) -> None:
        self.behind = False
