"""Quantiles out of buckets."""

from __future__ import annotations

import math

import pytest

from aperture.worker.dashboard.rows import quantile


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({}, 0.95, math.nan),
        ({0.1: 0.0, math.inf: 0.0}, 0.95, math.nan),
        ({0.1: 10.0, 0.2: 0.0}, 0.5, 0.05),
        ({0.1: 5.0, 0.2: 5.0}, 0.75, 0.15),
        ({0.1: 1.0, math.inf: 9.0}, 0.95, 0.1),
    ],
)
def test_quantiles_are_prometheus_own(buckets: dict[float, float], share: float, expected: float) -> None:
    """Linear within a bucket, and the last bound for what lies beyond it."""
    found = quantile(buckets, share)
    assert math.isnan(found) if math.isnan(expected) else found == pytest.approx(expected)
