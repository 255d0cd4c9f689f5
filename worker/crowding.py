"""When a session has more viewers here than one worker should write to.

One dashboard that everyone looks at would keep one core busy and leave the others idle. Above a number of connections
the worker reports the session to the gateway as crowded. Further viewers go to other workers, which relay this worker's
bytes to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aperture.worker.session.session import Session

__all__ = ["Crowding"]

RELIEVED = 0.8
"""Of the number above which a session is crowded: below it, it is not any more. In between nothing changes."""


class Crowding:
    """Watches how many connections each session has in this worker.

    Args:
        limit: above so many a session is crowded; 0 never calls one so.
        tell: tells the gateway.
    """

    def __init__(self, limit: int, tell: Callable[[str, bool], None]) -> None:
        self._limit = limit
        self._tell = tell
        self._crowded: set[str] = set()

    def look(self, session: Session) -> None:
        """A viewer has come to this session."""
        if 0 < self._limit <= len(session.fanout.viewers) and session.id not in self._crowded:
            self._crowded.add(session.id)
            self._tell(session.id, True)

    def look_again(self, sessions: Iterable[Session]) -> None:
        """Viewers may have gone. Called every now and then with all sessions of this worker."""
        if not self._crowded:
            return
        still = {session.id for session in sessions if len(session.fanout.viewers) > RELIEVED * self._limit}
        for session_id in self._crowded - still:
            self._tell(session_id, False)
        self._crowded &= still
