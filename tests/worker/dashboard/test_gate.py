"""Who may see the dashboard."""

from __future__ import annotations

import pytest

from aperture.worker.dashboard.gate import COOKIE, LOGIN_LIFETIME, NOT_HERE, NOT_LOGGED_IN, Asking, Gate

TOKEN = "s3cret-admin-token"


def asking(
    peer: str | None = "127.0.0.1",
    host: str = "localhost:5006",
    headers: tuple[str, ...] = (),
    cookie: str | None = None,
) -> Asking:
    names = ("Host", "User-Agent", "Accept", *headers)
    return Asking(peer, host, names, {} if cookie is None else {COOKIE: cookie})


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5006", "127.0.0.1:5006", "[::1]:5006", "[::1]"])
def test_without_a_token_this_machine_may_look(peer: str, host: str) -> None:
    """A local user needs no password."""
    assert Gate(None).refusal(asking(peer, host)) is None


@pytest.mark.parametrize(
    "peer", [None, "", "0.0.0.0", "10.0.0.7", "192.168.1.9", "2001:db8::1", "::ffff:10.0.0.7", "x"]
)
def test_without_a_token_nobody_else_may(peer: str | None) -> None:
    """Another machine may be anybody's, and a unix socket has a proxy in front of it."""
    assert Gate(None).refusal(asking(peer)) == NOT_HERE


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "x-forwarded-proto", "X-Real-IP", "Forwarded", "FORWARDED", "Via", "X-Client-IP", "CF-Ray"],
)
def test_without_a_token_no_proxy_may(header: str) -> None:
    """Behind a proxy on this machine every stranger comes from 127.0.0.1."""
    assert Gate(None).refusal(asking(headers=(header,))) == NOT_HERE


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:5006", "localhost.evil.example", "10.0.0.7", "[::2]"]
)
def test_without_a_token_the_host_must_be_this_machine(host: str) -> None:
    """A stranger's page may have its own name resolved to 127.0.0.1."""
    assert Gate(None).refusal(asking(host=host)) == NOT_HERE


def test_with_a_token_only_its_cookie_counts() -> None:
    """From anywhere, and not even this machine without it."""
    gate = Gate(TOKEN)
    assert gate.refusal(asking()) == NOT_LOGGED_IN
    away = asking("203.0.113.5", "dash.example", ("X-Forwarded-For",), gate.cookie())
    assert gate.refusal(away) is None


def test_a_cookie_ends() -> None:
    """After twelve hours a user has to log in again."""
    now = 1_000_000.0
    gate = Gate(TOKEN, clock=lambda: now)
    cookie = gate.cookie()
    now += LOGIN_LIFETIME - 1
    assert gate.refusal(asking(cookie=cookie)) is None
    now += 1
    assert gate.refusal(asking(cookie=cookie)) == NOT_LOGGED_IN


def test_a_cookie_cannot_be_made_without_the_token() -> None:
    """Nor its end be moved, and it does not show the token."""
    good = Gate(TOKEN).cookie()
    expires, _, signature = good.partition(".")
    assert TOKEN not in good
    forged = [
        "",
        ".",
        TOKEN,
        signature,
        f"{int(expires) + 1}.{signature}",
        f"{expires}.{signature[:-1]}",
        f"{expires}.",
        f"٣.{signature}",
        "é.é",
        Gate("another-token").cookie(),
    ]
    assert {Gate(TOKEN).refusal(asking(cookie=cookie)) for cookie in forged} == {NOT_LOGGED_IN}


def test_only_the_token_is_accepted() -> None:
    """With blanks around it, which come with copying; and nothing at all where there is none."""
    gate = Gate(TOKEN)
    assert gate.accepts(f" {TOKEN}\n")
    assert not any(gate.accepts(wrong) for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é"))
    assert not Gate(None).accepts("")
