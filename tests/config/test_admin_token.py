"""Where the admin endpoints' token comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from aperture.config.admin_token import admin_token
from aperture.errors import ConfigurationError


def test_no_token_is_no_token() -> None:
    """Neither an empty option nor an empty variable asks for anything."""
    assert admin_token(None, None) is None
    assert admin_token("", "") is None


def test_a_file_may_end_with_a_newline(tmp_path: Path) -> None:
    """As every editor leaves it."""
    (tmp_path / "token").write_text("abc.DEF-1\n")
    assert admin_token(None, str(tmp_path / "token")) == "abc.DEF-1"


@pytest.mark.parametrize("token", ["two words", "naïve", "x" * 1025, "a\nb"])
def test_what_no_header_can_carry_is_refused_unquoted(token: str) -> None:
    """At the start, and not at the first request; the text does not show it."""
    with pytest.raises(ConfigurationError) as refused:
        admin_token(token, None)
    assert token not in str(refused.value)


def test_an_unreadable_or_empty_file_is_refused(tmp_path: Path) -> None:
    """An empty secret must not open the door."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing", "empty", "binary"):
        with pytest.raises(ConfigurationError, match=name):
            admin_token(None, str(tmp_path / name))
