"""Who may use the admin endpoints."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from aperture.gateway.admin.access import AdminAccess, is_loopback

HERE = {"Host": "127.0.0.1:9006"}
OPEN = AdminAccess(None, loopback=True)
GUARDED = AdminAccess("s3cret", loopback=False)


def status(access: AdminAccess, method: str, headers: dict[str, str]) -> int | None:
    refusal = access.refusal(method, headers)
    return None if refusal is None else refusal.status


def test_without_a_token_this_machine_may_look() -> None:
    """A plain GET on loopback is answered."""
    assert status(OPEN, "GET", HERE) is None


def test_without_a_token_a_post_must_say_that_it_is_meant() -> None:
    """A page in a browser can send a POST to loopback, but no header of that name."""
    assert status(OPEN, "POST", HERE) == HTTPStatus.FORBIDDEN
    assert status(OPEN, "POST", HERE | {"X-Aperture": "1"}) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9006", "127.0.0.1.evil.example", "", "localhost.evil.example"]
)
def test_a_strange_name_on_loopback_is_refused(host: str) -> None:
    """A page whose name was made to point at loopback sends that name."""
    assert status(OPEN, "GET", {"Host": host}) == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("host", ["localhost", "localhost:9006", "app.localhost:1", "[::1]:9006", "10.0.0.7:9006"])
def test_names_that_nobody_can_rebind_are_answered(host: str) -> None:
    """Addresses, and what always is this machine."""
    assert status(OPEN, "GET", {"Host": host}) is None


def test_on_other_addresses_any_name_will_do() -> None:
    """Prometheus asks for a service's name."""
    assert status(AdminAccess(None, loopback=False), "GET", {"Host": "node-1:9006"}) is None


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer ß"]
)
def test_a_wrong_token_is_refused(given: str) -> None:
    """Anything but the whole token under the word Bearer."""
    assert status(GUARDED, "GET", {"Host": "x", "Authorization": given}) == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("given", ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret "])
def test_the_right_token_opens_everything(given: str) -> None:
    """Also a POST: no page of another site knows the token."""
    assert status(GUARDED, "GET", {"Host": "x", "Authorization": given}) is None
    assert status(GUARDED, "POST", {"Host": "x", "Authorization": given}) is None


def test_no_refusal_holds_the_token() -> None:
    """What is answered to strangers must not help them."""
    refusal = GUARDED.refusal("GET", {"Authorization": "Bearer wrong"})
    assert refusal is not None
    assert "s3cret" not in refusal.reason


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("host", False),
    ],
)
def test_what_only_this_machine_reaches(address: str, loopback: bool) -> None:
    """Loopback addresses, and nothing else."""
    assert is_loopback(address) is loopback
