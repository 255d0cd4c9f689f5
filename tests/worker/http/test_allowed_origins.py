"""Which origins may open a websocket."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from bokeh.server.util import check_allowlist
from bokeh.settings import settings as bokeh_settings
from hypothesis import given
from hypothesis import strategies as st

from aperture.errors import ConfigurationError
from aperture.worker.http.allowed_origins import AllowedOrigins


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
    """And an empty list admits no origin."""
    allowed = AllowedOrigins(["a.corp", "b.corp:81"])
    assert allowed.admits("http://a.corp")
    assert allowed.admits("http://b.corp:81")
    assert not allowed.admits("http://b.corp")
    assert not AllowedOrigins([]).admits("http://a.corp")


@pytest.mark.parametrize(
    "pattern", ["", ":5006", "host:", "host:port", "host:80a", "  ", "https://dash.corp", "https://dash.corp:443"]
)
def test_patterns_that_mean_nothing_are_refused_at_the_start(pattern: str) -> None:
    """Rather than admitting no origin without a word."""
    with pytest.raises(ConfigurationError, match="websocket origin"):
        AllowedOrigins([pattern])


SETTING = "BOKEH_ALLOW_WS_ORIGIN"


@pytest.mark.parametrize(
    ("setting", "origin", "admitted"),
    [
        ("a.corp", "https://a.corp", True),
        ("a.corp", "https://a.corp:8443", True),
        ("a.corp:81", "http://a.corp:82", False),
        ("a.corp:81", "http://a.corp:81", True),
        ("*.corp", "http://a.corp:82", True),
        ("*.corp", "http://corp:82", False),
        ("a.corp,b.corp:81", "http://b.corp:81", True),
        ("a.corp,b.corp:81", "http://b.corp", False),
        ("*", "http://anything.example:1", True),
        ("a.corp", "http://localhost:5006", False),
        ("a.corp,", "http://a.corp:82", True),
        ("a.corp,", "http://b.corp", False),
    ],
)
def test_the_setting_replaces_the_option_and_means_what_it_means_to_bokeh(
    setting: str, origin: str, admitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without a port is that host on any port, which for the option it is not."""
    monkeypatch.setenv(SETTING, setting)
    assert check_allowlist(urlsplit(origin).netloc, bokeh_settings.allowed_ws_origin()) is admitted
    assert AllowedOrigins(["localhost:5006"]).admits(origin) is admitted


def test_the_setting_may_come_from_a_file_or_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all of Bokeh's settings; then it is a list."""
    monkeypatch.setattr(type(bokeh_settings).allowed_ws_origin, "_user_value", ["a.corp", "b.corp:81"])
    allowed = AllowedOrigins(["localhost:5006"])
    assert allowed.admits("http://a.corp:8080")
    assert not allowed.admits("http://b.corp:8080")
    assert not allowed.admits("http://localhost:5006")


@pytest.mark.parametrize("setting", ["", " ", ",", " , "])
def test_an_empty_setting_counts_as_not_set(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all empty variables do."""
    monkeypatch.setenv(SETTING, setting)
    assert AllowedOrigins(["a.corp"]).admits("http://a.corp")


@pytest.mark.parametrize("setting", ["https://dash.corp", "a.corp,https://dash.corp", "a.corp:http", ":80"])
def test_a_setting_that_means_nothing_is_refused_at_the_start(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name."""
    monkeypatch.setenv(SETTING, setting)
    with pytest.raises(ConfigurationError, match=SETTING):
        AllowedOrigins([])


def test_a_setting_that_changes_is_parsed_once_and_its_bad_parts_admit_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised while the server runs; the log says once what is wrong, and the good parts count."""
    allowed = AllowedOrigins(["localhost:5006"])
    monkeypatch.setenv(SETTING, "https://dash.corp,a.corp")
    for _ in range(3):
        assert allowed.admits("http://a.corp")
        assert not allowed.admits("https://dash.corp")
        assert not allowed.admits("http://localhost:5006")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    monkeypatch.setenv(SETTING, "https://dash.corp")
    assert not allowed.admits("https://dash.corp")
    assert not allowed.admits("http://localhost:5006")
    monkeypatch.delenv(SETTING)
    assert allowed.admits("http://localhost:5006")


@given(st.text())
def test_no_origin_raises(origin: str) -> None:
    """The header is a stranger's."""
    AllowedOrigins(["dashboard.corp", "*.corp:*", "[::1]:5006"]).admits(origin)


@given(st.text(alphabet="htp:/[]@.*#?%0:a"))
def test_no_almost_origin_raises_or_gets_in(origin: str) -> None:
    """Made of the characters that matter to parsers of URLs."""
    assert not AllowedOrigins(["dashboard.corp", "[::1]:5006"]).admits(origin)
