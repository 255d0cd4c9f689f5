"""Levels and their names."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from aperture.gateway.options import LOG_LEVELS
from aperture.log import LOGGERS, TRACE, configure, level_number


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_every_level_of_the_command_line_has_a_number() -> None:
    """They go from the most talkative to the least."""
    numbers = [level_number(name) for name in LOG_LEVELS]
    assert numbers == sorted(numbers)
    assert numbers[0] == TRACE


def test_trace_is_the_level_that_bokeh_defines() -> None:
    """Bokeh logs at its own trace level, which is shown when ours is."""
    import bokeh.util.logconfig

    assert bokeh.util.logconfig.TRACE == TRACE


def test_both_loggers_get_the_level() -> None:
    """What Bokeh's models log belongs to the same log."""
    configure("error", "%(message)s")
    assert [logging.getLogger(name).level for name in LOGGERS] == [logging.ERROR, logging.ERROR]
