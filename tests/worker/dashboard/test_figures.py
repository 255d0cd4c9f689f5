"""Figures as values, and on their way between nodes."""

from __future__ import annotations

from aperture.metrics import Distribution, Reading, families
from aperture.worker.dashboard.figures import parse_key, values_of


def readings() -> list[Reading]:
    callback = Distribution(families.CALLBACK.buckets)
    callback.observe(0.02)
    return [
        Reading(families.SESSIONS, ("/sliders",), 3),
        Reading(families.CALLBACK, ("/sliders",), callback),
        Reading(families.LOOP_LAG, ("0",), 0.0),
        Reading(families.OPEN_FDS, ("worker-0",), 12),
    ]


def test_readings_become_the_samples_of_the_exposition() -> None:
    """Names and labels are those of `/metrics`; what is not shown is left out."""
    values = values_of(readings())
    assert values["aperture_sessions", ("/sliders",)] == 3
    assert values["aperture_callback_seconds_bucket", ("/sliders", "0.025")] == 1
    assert values["aperture_callback_seconds_bucket", ("/sliders", "+Inf")] == 0
    assert not any(name.startswith("aperture_process_open") for name, _ in values)


def test_keys_that_are_none_are_passed_over() -> None:
    """A damaged file has whatever it has."""
    assert parse_key("{") is None
    assert parse_key('["aperture_sessions", "aperture_sessions", {}, ""]') is None
    assert parse_key('["other", "other", {}, ""]') is None
