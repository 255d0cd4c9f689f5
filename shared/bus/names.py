"""Every key and channel in Redis, in one place, so that two installations can share a server under two namespaces."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DEFAULT_NAMESPACE", "Names", "is_namespace"]

DEFAULT_NAMESPACE = "default"

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_namespace(text: str) -> bool:
    """Whether this can name an installation: letters, digits, dots, dashes and underscores, 64 of them at most."""
    return _NAMESPACE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Names:
    """The keys and channels of one installation. Session ids in them are secrets, as everything in Redis is.

    Args:
        namespace: of the installation.
    """

    namespace: str = DEFAULT_NAMESPACE

    def channel(self, session_id: str) -> str:
        """Where a session's owner publishes to its edges."""
        return f"aperture:{self.namespace}:patches:{session_id}"

    def inbox(self, owner: str) -> str:
        """The channel that one worker, and only it, listens to."""
        return f"aperture:{self.namespace}:inbox:{owner}"

    def orders(self, worker: str) -> str:
        """The channel on which one worker hears what operators want."""
        return f"aperture:{self.namespace}:orders:{worker}"

    def figures(self, worker: str) -> str:
        """The channel on which one worker is asked for its node's figures, and told of other nodes'."""
        return f"aperture:{self.namespace}:figures:{worker}"

    def session(self, session_id: str) -> str:
        """Hash: who owns the session, at which epoch."""
        return f"aperture:{self.namespace}:session:{session_id}"

    def stream(self, session_id: str) -> str:
        """Stream: the latest of what was published on the session's channel."""
        return f"aperture:{self.namespace}:stream:{session_id}"

    def kept(self, session_id: str) -> str:
        """Hash: what the session is rebuilt from, but for its journal."""
        return f"aperture:{self.namespace}:kept:{session_id}"

    def journal(self, session_id: str) -> str:
        """List: what happened in the session since the snapshot that is kept of it."""
        return f"aperture:{self.namespace}:journal:{session_id}"

    @property
    def workers(self) -> str:
        """Sorted set: each living worker, with the millisecond in which its lease ends."""
        return f"aperture:{self.namespace}:workers"

    @property
    def epoch(self) -> str:
        """The highest epoch ever given out."""
        return f"aperture:{self.namespace}:epoch"

    @property
    def born(self) -> str:
        """The millisecond in which this Redis first heard of this installation."""
        return f"aperture:{self.namespace}:born"

    @property
    def seasoned(self) -> str:
        """Exists while some worker lives that knew an earlier Redis, which may have known more sessions."""
        return f"aperture:{self.namespace}:seasoned"
