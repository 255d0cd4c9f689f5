"""Whole documents for the viewers that ask for one: encoded once for a crowd, and one to a turn of the event loop.

After a restart, or a break of the network, all viewers of a dashboard come back in one moment and each wants the same
document. A plot of 100,000 points takes milliseconds to encode, so a thousand viewers would block the worker
for a thousand times that. So the encoded document is cached for a few seconds, for the next viewer that pulls.

The cache is valid while the document cannot have changed. Comparing sequence numbers is not enough: changes without a
viewer, or held back by the app, make no patch. It is valid while nothing except pulls has had the document's lock and
the document has announced no change without it. An array that code changes in place without the lock is noticed by no
viewer in any case, until one pulls after the few seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aperture.protocol.codec import encode_document
from aperture.protocol.messages import FramedDocument
from aperture.worker.session.turns import Turns

if TYPE_CHECKING:
    from bokeh.document import Document

__all__ = ["CACHED_BYTES", "CACHED_SECONDS", "LARGE", "Pulls"]

CACHED_BYTES = 64 * 1024 * 1024
"""Of all documents that a worker keeps at one time: thirty plots of 100,000 points. A larger one is not shared."""

LARGE = 128 * 1024
"""Bytes of a document that take a turn: half a millisecond or so, for copying and sending what another has encoded."""

CACHED_SECONDS = 5.0
"""Since it was encoded. Browsers come back within a second or two of each other."""


@dataclass(slots=True)
class _CachedDocument:
    document: FramedDocument
    as_of: tuple[int, int]
    end: asyncio.TimerHandle


class Pulls:
    """What the pulls of a worker share. All calls come from its event loop."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.bytes = 0
        """Size of the cached documents."""
        self._cached: dict[tuple[Document, bool], _CachedDocument] = {}
        """Oldest first."""

    def take(self, document: Document, as_of: tuple[int, int], *, inline: bool, keep: bool) -> FramedDocument:
        """The document, encoded now or at an earlier pull of the same state. Called under its lock, and used there.

        Args:
            document: a session's.
            as_of: differs whenever the document may have changed.
            inline: with arrays in the text.
            keep: whether another viewer may ask for the same.
        """
        kept = self._cached.get((document, inline))
        if kept is not None and kept.as_of == as_of:
            framed = kept.document
        else:
            self._let_go(document, inline)
            framed = FramedDocument.of(*encode_document(document, inline=inline))
            if keep and len(framed) <= CACHED_BYTES:
                framed = framed.copied()
                self._keep(document, inline, framed, as_of)
        if len(framed) >= LARGE:
            self.turns.note()
        return framed

    def forget(self, document: Document) -> None:
        """Its session has ended."""
        for inline in (False, True):
            self._let_go(document, inline)

    def _keep(self, document: Document, inline: bool, framed: FramedDocument, as_of: tuple[int, int]) -> None:
        while self.bytes + len(framed) > CACHED_BYTES:
            self._let_go(*next(iter(self._cached)))
        end = asyncio.get_running_loop().call_later(CACHED_SECONDS, self._let_go, document, inline)
        self._cached[document, inline] = _CachedDocument(framed, as_of, end)
        self.bytes += len(framed)

    def _let_go(self, document: Document, inline: bool) -> None:
        kept = self._cached.pop((document, inline), None)
        if kept is not None:
            kept.end.cancel()
            self.bytes -= len(kept.document)
