"""Reads what `/metrics` answers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families as parse

__all__ = ["samples"]


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }
