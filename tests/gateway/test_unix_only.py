"""Where there is no fork, importing works and using says why not."""

from __future__ import annotations

import os

import pytest

from aperture.config.settings import Settings
from aperture.errors import ConfigurationError
from aperture.gateway.supervise.supervisor import Supervisor


def test_without_fork_a_node_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows users read what is missing instead of an import error."""
    monkeypatch.delattr(os, "fork")
    with pytest.raises(ConfigurationError, match="fork"):
        Supervisor(Settings(), [], [], lambda seat: 0, lambda seat: 0)
