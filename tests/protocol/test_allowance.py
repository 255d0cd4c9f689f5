"""What compressed messages count: what they inflate to beyond an honest ratio, and what reading that takes."""

from __future__ import annotations

import pytest

from aperture.errors import ProtocolError
from aperture.protocol.allowance import FREE_FACTOR, REFILL_SECONDS, USUAL_MESSAGE_SIZE, Allowance
from aperture.protocol.closing import MESSAGE_TOO_BIG

BUDGET = 500_000_000
SENT = 20_000


def test_what_inflates_as_honest_messages_do_is_free() -> None:
    """However often."""
    allowance = Allowance(BUDGET)
    for _ in range(1000):
        allowance.inflate(SENT * FREE_FACTOR, SENT * FREE_FACTOR * FREE_FACTOR, text=True)
    assert allowance.left == BUDGET


def test_a_text_that_was_hardly_sent_is_refused_before_it_is_parsed() -> None:
    """20 MB of `{}` make 600 MB of objects."""
    with pytest.raises(ProtocolError) as refused:
        Allowance(BUDGET).inflate(SENT, USUAL_MESSAGE_SIZE, text=True)
    assert refused.value.close_code == MESSAGE_TOO_BIG


def test_messages_that_inflate_a_lot_are_counted_over_a_minute() -> None:
    """Zeros in buffers: some, and again when the budget has filled up."""
    now = [0.0]
    allowance = Allowance(BUDGET, clock=lambda: now[0])
    for _ in range(2):
        for _ in range(2):
            allowance.inflate(SENT, USUAL_MESSAGE_SIZE, text=False)
        with pytest.raises(ProtocolError):
            allowance.inflate(SENT, USUAL_MESSAGE_SIZE, text=False)
        now[0] += 2 * REFILL_SECONDS
