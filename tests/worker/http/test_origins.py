"""Which origins may open a websocket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture.errors import ConfigurationError
from aperture.worker.http.origins import AllowedOrigins


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("dashboard.corp", "http://dashboard.corp"),
        ("dashboard.corp", "https://dashboard.corp"),
        ("dashboard.corp", "http://dashboard.corp:80"),
        ("Dashboard.Corp", "http://dashboard.corp"),
        ("dashboard.corp", "http://DASHBOARD.CORP"),
        (" dashboard.corp ", "http://dashboard.corp"),
        ("localhost:5006", "http://localhost:5006"),
        ("localhost:*", "http://localhost:12345"),
        ("localhost:*", "http://localhost"),
        ("*.corp", "http://dashboard.corp"),
        ("*.corp:*", "http://dashboard.corp:8080"),
        ("192.168.1.*:5006", "http://192.168.1.77:5006"),
        ("*", "http://anything.example.org:1234"),
        ("*", "https://[::1]:8443"),
        ("*:5006", "http://anything.example.org:5006"),
        ("[::1]:5006", "http://[::1]:5006"),
        ("[::1]", "http://[::1]"),
        ("dashboard.corp", "dashboard.corp"),
    ],
)
def test_admitted(pattern: str, origin: str) -> None:
    """What `--allow-websocket-origin` is meant to let in."""
    assert AllowedOrigins([pattern]).admits(origin)


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("dashboard.corp", "http://dashboard.corp.attacker.com"),
        ("dashboard.corp", "http://attacker-dashboard.corp"),
        ("dashboard.corp", "http://evil.dashboard.corp"),
        ("dashboard.corp", "http://dashboard.corp:8080"),
        ("dashboard.corp", "http://dashboard.corp@attacker.com"),
        ("dashboard.corp", "http://attacker.com/dashboard.corp"),
        ("dashboard.corp", "http://attacker.com#dashboard.corp"),
        ("dashboard.corp", "http://attacker.com?dashboard.corp"),
        ("dashboard.corp", "http://corp"),
        ("localhost:5006", "http://localhost"),
        ("localhost:5006", "http://localhost:5007"),
        ("localhost:5006", "http://localhost:50060"),
        ("*.corp", "http://corp"),
        ("*.corp", "http://a.b.corp"),
        ("*.corp", "http://dashboard.corp.attacker.com"),
        ("*.corp:80", "http://dashboard.corp:81"),
        ("dash*.corp", "http://dashboard.corp"),
        ("192.168.1.*", "http://192.168.1.1.attacker.com"),
        ("[::1]:5006", "http://[::2]:5006"),
        ("[::1]", "http://[::1]:5006"),
        ("dashboard.corp", "null"),
        ("dashboard.corp", ""),
        ("dashboard.corp", "http://"),
        ("*", ""),
        ("dashboard.corp", "file://"),
        ("dashboard.corp", "http://["),
        ("dashboard.corp", "http://[::1"),
        ("*", "http://["),
        ("dashboard.corp", "http://dashboard.corp\x00"),
    ],
)
def test_refused(pattern: str, origin: str) -> None:
    """What looks like it, and what is nothing at all."""
    assert not AllowedOrigins([pattern]).admits(origin)


def test_any_pattern_of_several_will_do() -> None:
    """And an empty list admits nobody."""
    allowed = AllowedOrigins(["a.corp", "b.corp:81"])
    assert allowed.admits("http://a.corp")
    assert allowed.admits("http://b.corp:81")
    assert not allowed.admits("http://b.corp")
    assert not AllowedOrigins([]).admits("http://a.corp")


@pytest.mark.parametrize("pattern", ["", ":5006", "host:", "host:port", "host:80a", "  "])
def test_patterns_that_mean_nothing_are_refused_at_the_start(pattern: str) -> None:
    """Rather than admitting nobody without a word."""
    with pytest.raises(ConfigurationError, match="websocket origin"):
        AllowedOrigins([pattern])


@given(st.text())
def test_no_origin_raises(origin: str) -> None:
    """The header is a stranger's."""
    AllowedOrigins(["dashboard.corp", "*.corp:*", "[::1]:5006"]).admits(origin)


@given(st.text(alphabet="htp:/[]@.*#?%0:a"))
def test_no_almost_origin_raises_or_gets_in(origin: str) -> None:
    """Made of the characters that matter to parsers of URLs."""
    assert not AllowedOrigins(["dashboard.corp", "[::1]:5006"]).admits(origin)
