"""How far a node is on its way to its end: it serves, is unready, closes, and is killed if that takes too long.

    serving --begin--> unready --close--> closing --kill--> being killed

An unready node still serves, so that load balancers learn of its end before its connections do. This has neither a
clock nor processes: the supervisor asks it when what is due, and does it.
"""

from __future__ import annotations

from collections.abc import Iterator

from aperture.errors import ExitCode

__all__ = ["SAME_REQUEST", "UNREADY_TIME", "Shutdown"]

UNREADY_TIME = 1.0
"""Seconds for the gateway to report unready before the workers are stopped, in case it is dead or stuck."""

SAME_REQUEST = 0.5
"""Seconds within which a second signal counts as the first: `timeout` signals the process and its group, and a shell
and a terminal may do the same."""


class Shutdown:
    """The end of one node. Times are the supervisor's monotonic seconds."""

    def __init__(self) -> None:
        self.outcome: ExitCode | None = None
        """The node's exit code; None while it serves."""
        self.close_at: float | None = None
        """While the node is unready: the latest time to close."""
        self.kill_at: float | None = None
        """While it closes: when those that have not ended are killed."""
        self.delayed = False
        """Whether the node is unready for a time of its own, and not only until the gateway has reported that it is."""
        self.gateway_notified = False
        """Whether the gateway has been asked to end: it is the last but Redis, and is asked once."""
        self.killed_any = False
        self._since = 0.0

    @property
    def begun(self) -> bool:
        """Whether the node is to end."""
        return self.outcome is not None

    @property
    def unready(self) -> bool:
        """Whether the node has said that it ends, and still serves."""
        return self.close_at is not None

    @property
    def exit_code(self) -> ExitCode:
        """Of the node, at its end."""
        assert self.outcome is not None, "the loop ends when there is an outcome"
        return ExitCode.KILLED if self.killed_any and self.outcome is ExitCode.OK else self.outcome

    def begin(self, outcome: ExitCode, now: float, delay: float) -> None:
        """Become unready, for the delay, or else until the gateway has reported it."""
        self.outcome = outcome
        self._since = now
        self.delayed = delay > 0
        self.close_at = now + (delay or UNREADY_TIME)

    def close(self, now: float, grace: float) -> None:
        """Begin to close; what has not ended after the grace period is killed."""
        self.close_at = None
        self.kill_at = now + grace

    def kill(self) -> None:
        """The grace period is over, or has been cut short."""
        self.kill_at = None

    def is_second_request(self, now: float) -> bool:
        """Whether a signal of now is a request of its own, and not the echo of the one that has begun this."""
        return now - self._since > SAME_REQUEST

    def due(self) -> Iterator[float]:
        """When something is to be done."""
        yield from (at for at in (self.close_at, self.kill_at) if at is not None)
