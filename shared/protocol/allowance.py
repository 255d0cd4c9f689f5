"""What a peer's messages may cost: memory that is allocated for them, work on models, and how deeply they nest.

A message is bounded by its size, and a small one can still ask for a lot: zeros in gzip inflate a thousandfold, many
values can name one buffer, which is copied for each array and written out for each value, forty bytes make a `Plot` of
50 KB and 3 ms. So what decoding allocates is counted, over all of a message and over all messages of a connection in a
time. What is in proportion to the bytes that were sent is free: there the peer's line and the size of a message are the
bound. A text of JSON is such: 20 MB of `{}` or of `{"a":0}` are parsed within a second, to 600 MB at most. Where
websockets are compressed, 20 KB are enough for such a text; so what was inflated beyond an honest ratio is counted as
what reading it may take.

Work on models is never free. It is counted in their properties (`aperture.protocol.weights`) and not by a clock, so
that a busy machine refuses nothing that an idle one takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from aperture.errors import ProtocolError
from aperture.protocol.closing import MESSAGE_TOO_BIG

__all__ = [
    "BUDGET_FACTOR",
    "MAX_DEPTH",
    "MAX_PROPERTIES",
    "MAX_VISITS",
    "MIN_BUDGET",
    "PROPERTY_BYTES",
    "UNLIMITED",
    "USUAL_MESSAGE_SIZE",
    "Allowance",
]

USUAL_MESSAGE_SIZE = 20 * 1024 * 1024
"""What `--websocket-max-message-size` is unless it is chosen."""

BUDGET_FACTOR = 25
"""A connection's budget in sizes of the largest message: 500 MiB by default, which a worker survives."""

MIN_BUDGET = 64 * 1024 * 1024
"""Small messages, too, may make a document of some hundred models."""

FREE_FACTOR = 10
"""Bytes that may be allocated for each byte received: lists of pairs of short numbers, the most wasteful of what honest
peers send, take 9."""

INFLATED_BINARY_FACTOR = 1 + FREE_FACTOR
"""What a byte counts that was hardly sent: itself, and what decoding takes it to entitle to."""

INFLATED_TEXT_FACTOR = 30 + INFLATED_BINARY_FACTOR
"""The same of JSON, with the objects that it is parsed to."""

REFILL_SECONDS = 60.0
"""In which an empty budget fills up."""

MAX_DEPTH = 100
"""Lists and maps inside each other. Bokeh's own values nest to about ten, models within models to some dozens; the
encoders fail from 237 on."""

PROPERTY_BYTES = 256
"""What a property of a new model counts; measured are 8 KB for a `Div`, whose weight is 43, and 51 KB for a `Plot` of
250, without what they hold."""

MAX_PROPERTIES = 250_000
"""The weight of the new models of one message. The loop makes some 100,000 in a second: a document of 5,000 models that
are plots and their parts has 220,000, and is to be pushed in one piece. 20,000 times a `Figure` by name are five
millions, and stop after two or three seconds."""

PROPERTIES_REFILL_SECONDS = 10.0
"""In which an empty budget of properties fills up: a fifth of the loop at most for one connection, and a program may
push a large document every few seconds."""

MAX_VISITS = 100_000
"""Models that one message may have Bokeh look at. Each change that adds or takes a model has it walk through all of the
document's, at 20 us to 100 us for each."""

MAX_COPIED = 2 * 1024**3
"""Bytes of columns that one message may have copied. A stream into an array makes a new one of it, which takes a second
for each GB; a message that streams ten times into 100 MB is still taken."""


class Allowance:
    """The budget of one connection. Not thread-safe.

    Args:
        budget: bytes that may be allocated beyond what is in proportion to what was received.
        depth: to which values may nest.
        properties: of the models that one message may make.
        visits: models that one message may have Bokeh look at.
        copied: bytes of columns that one message may have copied.
        clock: seconds.
    """

    __slots__ = (
        "_budget", "_clock", "_copied", "_free", "_left", "_max_copied", "_max_properties", "_max_visits",
        "_properties", "_refilled", "_visits", "depth",
    )  # fmt: skip

    def __init__(
        self,
        budget: int,
        *,
        depth: int = MAX_DEPTH,
        properties: int = MAX_PROPERTIES,
        visits: int = MAX_VISITS,
        copied: int = MAX_COPIED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.depth = depth
        self._max_properties = properties
        self._properties = float(properties)
        self._max_visits = visits
        self._visits = 0
        self._max_copied = copied
        self._copied = 0
        self._budget = budget
        self._clock = clock
        self._free = 0
        self._left = float(budget)
        self._refilled = clock()

    @classmethod
    def for_messages_of(cls, max_message_size: int) -> Allowance:
        """The allowance of a connection whose messages may be of that size."""
        return cls(max(MIN_BUDGET, BUDGET_FACTOR * max_message_size))

    @property
    def left(self) -> int:
        """Bytes that may still be allocated for this message."""
        return self._free + int(self._left)

    def inflate(self, received: int, inflated: int, *, text: bool) -> None:
        """Count a compressed message of a websocket that has been inflated and is about to be read.

        Up to `FREE_FACTOR` times what was sent counts as received: so far JSON and arrays of honest peers compress.

        Args:
            received: bytes on the wire.
            inflated: bytes.
            text: whether it will be parsed as JSON.

        Raises:
            ProtocolError: reading it would take more than is left; the connection is to be closed.
        """
        self._refill()
        self._free = 0
        excess = inflated - FREE_FACTOR * received
        if excess > 0:
            self.take(excess * (INFLATED_TEXT_FACTOR if text else INFLATED_BINARY_FACTOR))

    def begin(self, received: int) -> None:
        """A message of so many bytes is about to be decoded."""
        self._refill()
        self._free = FREE_FACTOR * received
        self._visits = 0
        self._copied = 0

    def _refill(self) -> None:
        now = self._clock()
        elapsed = now - self._refilled
        self._left = min(self._budget, self._left + elapsed * self._budget / REFILL_SECONDS)
        refill = elapsed * self._max_properties / PROPERTIES_REFILL_SECONDS
        self._properties = min(self._max_properties, self._properties + refill)
        self._refilled = now

    def take(self, size: int) -> None:
        """Count what is about to be allocated.

        Raises:
            ProtocolError: it is more than is left; the connection is to be closed.
        """
        self._free -= size
        if self._free >= 0:
            return
        self._left += self._free
        self._free = 0
        if self._left < 0:
            raise ProtocolError("too much memory is needed to decode what was sent", MESSAGE_TOO_BIG)

    def make(self, properties: int) -> None:
        """Count a model that is about to be made, by its weight.

        Raises:
            ProtocolError: as `take`, or it is more work than is left.
        """
        self.take(PROPERTY_BYTES * properties)
        self._properties -= properties
        if self._properties < 0:
            raise ProtocolError("too many models are needed to decode what was sent", MESSAGE_TOO_BIG)

    def visit(self, models: int) -> None:
        """Count the models that Bokeh is about to look at because of one change.

        Not over a time: between two messages of one connection the others have their turn.

        Raises:
            ProtocolError: it is more than a message may cause; the connection is to be closed.
        """
        self._visits += models
        if self._visits > self._max_visits:
            raise ProtocolError("too many changes of a large document in one message", MESSAGE_TOO_BIG)

    def copy(self, size: int) -> None:
        """Count the bytes of columns that are about to be copied because of one change.

        Not over a time, as with `visit`: honest peers stream often into large columns.

        Raises:
            ProtocolError: it is more than a message may cause; the connection is to be closed.
        """
        self._copied += size
        if self._copied > self._max_copied:
            raise ProtocolError("too many changes of large columns in one message", MESSAGE_TOO_BIG)


UNLIMITED = Allowance(sys.maxsize, depth=sys.maxsize, properties=sys.maxsize, visits=sys.maxsize, copied=sys.maxsize)
"""For what this project has written itself."""
