"""Which of a session's pages are its own, and which of them come back."""

from __future__ import annotations

from aperture.errors import PageRefused
from aperture.protocol.closing import TRY_AGAIN_LATER

__all__ = ["KnownPages"]

_REMEMBERED = 50_000
"""Pages that may come back to one session. A megabyte or two, and only for a session that many look at."""


class KnownPages:
    """The pages that one session has sent or given its document. They are known by the hash of their token.

    Args:
        inherited: whether the session is older than this, so that pages may come that another worker has served.
    """

    def __init__(self, *, inherited: bool) -> None:
        self.inherited = inherited
        # Dicts for their order: the oldest is forgotten first.
        self._issued: dict[int, None] = {}
        self._pulled: dict[int, None] = {}
        self._refused: dict[int, None] = {}

    def note_issued(self, token: str) -> None:
        """A page with this token is about to be sent."""
        _remember(self._issued, token)

    def refuse(self, token: str) -> None:
        """A page with this token, sent before the session was made, cannot show it."""
        _remember(self._refused, token)

    def check(self, token: str) -> None:
        """Refuse the websocket of a page that cannot show the session.

        Raises:
            PageRefused: it has to be loaded again.
        """
        if hash(token) in self._refused:
            raise PageRefused("the page has to be loaded again", TRY_AGAIN_LATER)

    def note_pulled(self, token: str) -> None:
        """A page with this token has the document: from now on it is one that comes back."""
        _remember(self._pulled, token)

    def is_return(self, token: str, *, from_browser: bool = True) -> bool:
        """Whether a page that used this token has pulled the document before, and so is coming back.

        It is unknown which patches a page made by another worker has; it is treated as a page that reconnects. That
        costs it a longer text, where the other mistake would leave it without a document.
        """
        known = hash(token)
        strange = self.inherited and from_browser and known not in self._issued
        return strange or known in self._pulled


def _remember(tokens: dict[int, None], token: str) -> None:
    tokens[hash(token)] = None
    if len(tokens) > _REMEMBERED:
        del tokens[next(iter(tokens))]
