"""The URL of the bus, and what may be said about it."""

from __future__ import annotations

import pytest

from aperture.bus.redis_options import BusOptions, Place
from aperture.config.settings import Settings
from aperture.errors import ConfigurationError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://cache", Place((("cache", 6379),))),
        ("redis://cache:7000/3", Place((("cache", 7000),), db=3)),
        ("redis://cache?db=4", Place((("cache", 6379),), db=4)),
        ("redis://[::1]:7000", Place((("::1", 7000),))),
        ("rediss://me:p%40ss@cache", Place((("cache", 6379),), tls=True, username="me", password="p@ss")),
        ("redis://:word@cache", Place((("cache", 6379),), password="word")),
        ("unix:///run/redis.sock", Place(path="/run/redis.sock")),
        ("unix://:word@/run/redis.sock?db=2", Place(path="/run/redis.sock", db=2, password="word")),
        ("redis+sentinel://a,b:7/main", Place((("a", 26379), ("b", 7)), service="main")),
        ("rediss+sentinel://:w@a/main/5", Place((("a", 26379),), service="main", tls=True, db=5, password="w")),
    ],
)
def test_a_url_says_where(url: str, place: Place) -> None:
    """Every form that the documentation names."""
    assert BusOptions(url).place == place


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:6379",
        "http://cache",
        "redis://",
        "redis://cache:port",
        "redis://cache:70000",
        "redis://cache/db",
        "redis://cache/1/2",
        "redis://cache?db=x",
        "redis://cache?timeout=3",
        "unix://",
        "unix://cache/run/redis.sock",
        "redis+sentinel://a",
        "redis+sentinel:///main",
        "redis+sentinel://a/main/x",
        f"redis://:{SECRET}/{SECRET}@cache",
        f"redis://:{SECRET}#{SECRET}@cache",
        f"http://:{SECRET}@cache",
    ],
)
def test_what_is_no_url_is_refused_without_being_quoted(url: str) -> None:
    """It may hold a password, wherever in the URL it is."""
    with pytest.raises(ConfigurationError) as refused:
        BusOptions(url)
    assert SECRET not in str(refused.value)


def test_nothing_that_is_printed_holds_a_password() -> None:
    """Options end in tracebacks and debug logs."""
    options = BusOptions(f"redis://me:{SECRET}@cache", password=SECRET)
    assert SECRET not in f"{options!r} {options.place!r} {options.place.text}"


def test_the_password_of_its_own_wins() -> None:
    """It is the one that came from a better place than a URL."""
    assert BusOptions("redis://me:old@cache", password="new").credentials()["password"] == "new"
    assert BusOptions("redis://me:old@cache").credentials()["password"] == "old"


def test_a_namespace_is_checked() -> None:
    """It becomes a part of every key."""
    with pytest.raises(ConfigurationError, match="namespace"):
        BusOptions("redis://cache", namespace="a:b")


def test_options_come_from_settings() -> None:
    """One place maps the one to the other."""
    settings = Settings(redis_url="redis://cache", redis_namespace="n", redis_password="p", redis_ca="/ca")
    assert BusOptions.of(settings) == BusOptions("redis://cache", namespace="n", password="p", ca="/ca")
    assert BusOptions.of(settings, "unix:///s").place.path == "/s"
    with pytest.raises(ConfigurationError):
        BusOptions.of(Settings())
