"""What is read along in Redis: an owner that another has followed is found by what it says."""

from __future__ import annotations

import pytest
from soak.history import History
from soak.publications import Publications
from soak.site import NAMESPACE

from aperture.bus.names import Names
from aperture.wire.envelopes import Envelope, Patches, Probe, Stored
from aperture.wire.session_key import session_key_of


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def publications(history: History) -> Publications:
    return Publications("no socket", list, history)


KEY = session_key_of("/soaked", "some-session")


def test_owners_that_follow_each_other(publications: Publications, history: History) -> None:
    """A probe is sent without asking Redis, and may come late."""
    for envelope in (Patches(7, 1, ()), Stored(7, 2), Patches(8, 1, ()), Probe(7, 2)):
        publications.hear(KEY, envelope.pack())
    assert history.violations == []


@pytest.mark.parametrize("late", [Patches(7, 2, ()), Stored(7, 2)], ids=["patches", "stored"])
def test_an_owner_that_publishes_behind_the_next(late: Envelope, publications: Publications, history: History) -> None:
    """Each session's epochs are its own."""
    publications.hear(KEY, Patches(8, 1, ()).pack())
    publications.hear(session_key_of("/soaked", "another"), late.pack())
    assert history.violations == []
    publications.hear(KEY, late.pack())
    assert [violation.check for violation in history.violations] == ["fenced"]


def test_a_claim_comes_before_anything_is_published(publications: Publications, history: History) -> None:
    """The next owner may have no viewers elsewhere, and publish nothing itself."""
    claim = Names(NAMESPACE).session(KEY)
    publications.see([(claim, "7", False)])
    publications.hear(KEY, Patches(7, 1, ()).pack())
    publications.see([(claim, "8", "7")])
    assert history.violations == []
    publications.hear(KEY, Patches(7, 2, ()).pack())
    assert [violation.check for violation in history.violations] == ["fenced"]


def test_an_owner_that_stores_over_what_the_next_has_stored(publications: Publications, history: History) -> None:
    """Each snapshot and each journal has an epoch."""
    claim = Names(NAMESPACE).session(KEY)
    publications.see([(claim, "8", "8")])
    publications.see([(claim, "8", "7")])
    assert [violation.check for violation in history.violations] == ["fenced"]
