"""Every key and channel in Redis, in one place, so that two installations can share a server under two namespaces."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aperture.version import WIRE_VERSION

__all__ = ["DEFAULT_NAMESPACE", "Names", "is_namespace"]

DEFAULT_NAMESPACE = "default"

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_namespace(text: str) -> bool:
    """Whether this can name an installation: letters, digits, dots, dashes and underscores, 64 of them at most."""
    return _NAMESPACE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Names:
    """The keys and channels of one installation. Session ids in them are secrets, as everything in Redis is.

    The version of the wire is part of every name, so nodes of different versions never read each other's messages or
    stored sessions. It follows the namespace: a Redis login that may use `aperture:<namespace>:*` stays good.

    Args:
        namespace: of the installation.
        version: of the wire.
    """

    namespace: str = DEFAULT_NAMESPACE
    version: int = WIRE_VERSION

    @property
    def _prefix(self) -> str:
        return f"aperture:{self.namespace}:v{self.version}"

    def channel(self, session_key: str) -> str:
        """Where a session's owner publishes to its edges."""
        return f"{self._prefix}:patches:{session_key}"

    def inbox(self, owner: str) -> str:
        """The channel that one worker, and only it, listens to."""
        return f"{self._prefix}:inbox:{owner}"

    def orders(self, worker: str) -> str:
        """The channel on which one worker hears what operators want."""
        return f"{self._prefix}:orders:{worker}"

    def figures(self, worker: str) -> str:
        """The channel on which one worker is asked for its node's figures, and receives those of other nodes."""
        return f"{self._prefix}:figures:{worker}"

    def questions(self, worker: str) -> str:
        """The channel on which one worker is asked what only the app's framework knows, and hears the answers."""
        return f"{self._prefix}:questions:{worker}"

    def claim(self, task: str) -> str:
        """Exists while a worker does, or has lately done, what only one of all is to do."""
        return f"{self._prefix}:claim:{task}"

    def note(self, subject: str) -> str:
        """What one worker's framework has left for all of them."""
        return f"{self._prefix}:note:{subject}"

    def session(self, session_key: str) -> str:
        """Hash: who owns the session, at which epoch."""
        return f"{self._prefix}:session:{session_key}"

    def stream(self, session_key: str) -> str:
        """Stream: the latest of what was published on the session's channel."""
        return f"{self._prefix}:stream:{session_key}"

    def stored(self, session_key: str) -> str:
        """Hash: what the session is rebuilt from, but for its journal."""
        return f"{self._prefix}:kept:{session_key}"

    def journal(self, session_key: str) -> str:
        """List: what happened in the session since the snapshot that is kept of it."""
        return f"{self._prefix}:journal:{session_key}"

    @property
    def workers(self) -> str:
        """Sorted set: each living worker, with the millisecond in which its lease ends."""
        return f"{self._prefix}:workers"

    @property
    def epoch(self) -> str:
        """The highest epoch ever given out."""
        return f"{self._prefix}:epoch"

    @property
    def born(self) -> str:
        """The millisecond in which this Redis first heard of this installation."""
        return f"{self._prefix}:born"

    @property
    def room(self) -> str:
        """Written with each heartbeat, only to see whether this Redis still has memory for what is written."""
        return f"{self._prefix}:room"

    @property
    def seasoned(self) -> str:
        """Exists while some worker lives that knew an earlier Redis, which may have known more sessions."""
        return f"{self._prefix}:seasoned"
