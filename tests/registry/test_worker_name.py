"""The name of a worker as text."""

from __future__ import annotations

import pytest

from aperture.registry.registry import WorkerName


def test_a_name_survives_as_text() -> None:
    """It is the owner id in Redis and the name of the inbox; a node may be called anything."""
    for node in ("web-1", "10.0.0.1:5006", "a/b"):
        name = WorkerName(node, 3, "5f2a")
        assert WorkerName.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "a", "a/1", "a/b/c"])
def test_other_text_is_no_name(text: str) -> None:
    """What another version, or another program, has written."""
    with pytest.raises(ValueError):
        WorkerName.parse(text)
