"""A short run of every fuzzer, with the same inputs each time; `make fuzz` runs them for as long as one likes."""

from __future__ import annotations

import logging

import pytest
from fuzz.corpus import kept
from fuzz.target import Target
from fuzz.targets import TARGETS

INPUTS = 3000
"""Of each target in a test run."""


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Bokeh logs each header that it cannot read."""
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_damage_is_refused_or_read_as_others_read_it(target: Target) -> None:
    """And a good part of the inputs gets through, or nothing was compared."""
    accepted = sum(target.check(drawn) for drawn in target.inputs(1, INPUTS))
    assert accepted > INPUTS // 20


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_it_starts_from_is_accepted(target: Target) -> None:
    """Most of it: a seed may also be what is refused on purpose."""
    assert sum(map(target.check, target.seeds)) > len(target.seeds) // 2


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_kept_is_no_fault(target: Target) -> None:
    """Each input of the corpus as it is, without damage."""
    inputs = kept(target.name)
    assert inputs
    for drawn in inputs:
        target.check(drawn)


def test_a_seed_draws_the_same_inputs_again() -> None:
    """Or the one that is printed would be of no use."""
    target = TARGETS["heads"]
    assert list(target.inputs(7, 50)) == list(target.inputs(7, 50)) != list(target.inputs(8, 50))
