"""Decides whether a request may use the admin endpoints. Pure: headers in, a refusal out.

Two attacks to guard against, apart from a stranger who connects. Cross-site requests: a web page can have the browser
send requests to `127.0.0.1`, so without a token a POST must carry a header that no page can set for another site. DNS
rebinding: a page can have its own name resolve to `127.0.0.1` once it is loaded, and then counts as the same site. So
on loopback, without a token, the Host header must name loopback or be an IP address.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

__all__ = ["INTENT_HEADER", "AdminAccess", "Refusal", "address_to_ask", "is_loopback"]

INTENT_HEADER = "X-Aperture"
"""What a POST without a token must carry, with any value: `curl -X POST -H "X-Aperture: 1" ...`."""

_SCHEME = "bearer "

_ALL = {"*": "localhost", "": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - connected to, not bound
"""`*` means IPv4 and IPv6, and a machine may lack one of them; `0.0.0.0` is IPv4 only, `::` IPv6 only."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: an HTTP status and a sentence."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """The conditions that a request must meet.

    Args:
        token: the bearer token, if one is required.
        loopback: whether only this machine can reach the endpoints.
    """

    token: str | None
    loopback: bool

    def refusal(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why this request is refused; None if it is allowed.

        Args:
            method: of the request.
            headers: of the request, with names in any case.
        """
        if self.token is not None:
            return None if self._is_token(headers.get("Authorization", "")) else _UNAUTHORISED
        if self.loopback and not _names_loopback(headers.get("Host", "")):
            return _STRANGE_HOST
        if method == "POST" and not headers.get(INTENT_HEADER):
            return _NO_INTENT
        return None

    def _is_token(self, authorization: str) -> bool:
        if self.token is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given = authorization[len(_SCHEME) :].strip()
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())


_UNAUTHORISED = Refusal(HTTPStatus.UNAUTHORIZED, "a bearer token is required: the one given as --admin-token")
_STRANGE_HOST = Refusal(
    HTTPStatus.FORBIDDEN, "ask for 127.0.0.1 or localhost; with --admin-token any name of this machine will do"
)
_NO_INTENT = Refusal(HTTPStatus.FORBIDDEN, f"a POST must carry the header {INTENT_HEADER}: 1, or a bearer token")


def is_loopback(address: str) -> bool:
    """Whether a listening address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def address_to_ask(address: str) -> str:
    """The address to connect to, from this machine, for a listening address; wildcards become loopback."""
    return _ALL.get(address, address)


def _names_loopback(host: str) -> bool:
    """Whether a Host header names this machine or is an IP address, which DNS rebinding cannot change."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower() in ("localhost", "localhost.") or name.lower().endswith(".localhost")
    return True
