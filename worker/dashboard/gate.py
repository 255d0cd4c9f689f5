"""Who may see the dashboard.

With an admin token: whoever has logged in with it, from anywhere. Without one: whoever sits at this machine. A request
that came through a proxy may be anybody's, whatever address it comes from, and so is refused; so is one that names
another host than this machine, because a page of a stranger can have its own name resolved to 127.0.0.1.

An app's login, where there is one, is asked for as well, by the handlers.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["COOKIE", "LOGIN_LIFETIME", "Asking", "Gate"]

COOKIE = "aperture_admin"

LOGIN_LIFETIME = 12 * 3600
"""Seconds: a working day and a bit."""

_FORWARDED = ("forwarded", "via", "x-forwarded", "x-real-ip", "x-client-ip", "x-scheme", "true-client-ip", "cf-")
"""How the names of headers begin that proxies add."""

NOT_HERE = (
    "The dashboard is shown to browsers on this machine only, and not through a proxy. Start the server with "
    "--admin-token to log in from elsewhere."
)
NOT_LOGGED_IN = "Log in with the admin token first."


@dataclass(frozen=True, slots=True)
class Asking:
    """What a request says of who sends it.

    Args:
        peer: the address at the other end of the connection, as the kernel has it; None for a unix socket.
        host: the Host header.
        header_names: of all its headers.
        cookies: by name.
    """

    peer: str | None
    host: str
    header_names: Iterable[str]
    cookies: Mapping[str, str]


class Gate:
    """Decides about requests for the dashboard.

    Args:
        token: the admin token; None if there is none.
        clock: seconds since the epoch.
    """

    def __init__(self, token: str | None, clock: Callable[[], float] = time.time) -> None:
        self._token = token
        self._clock = clock

    @property
    def asks_for_token(self) -> bool:
        return self._token is not None

    def refusal(self, asking: Asking) -> str | None:
        """Why the request may not have the dashboard, as a sentence; None if it may."""
        if self._token is not None:
            return None if self._is_ours(asking.cookies.get(COOKIE, "")) else NOT_LOGGED_IN
        return None if _is_local(asking) else NOT_HERE

    def accepts(self, token: str) -> bool:
        """Whether this is the admin token."""
        return self._token is not None and hmac.compare_digest(self._token.encode(), token.strip().encode())

    def cookie(self) -> str:
        """A value for the cookie of somebody who has the token. The token cannot be had from it."""
        expires = str(int(self._clock()) + LOGIN_LIFETIME)
        return f"{expires}.{self._signature(expires)}"

    def _is_ours(self, cookie: str) -> bool:
        expires, _, signature = cookie.partition(".")
        if not hmac.compare_digest(self._signature(expires).encode(), signature.encode()):
            return False
        return expires.isdecimal() and int(expires) > self._clock()

    def _signature(self, expires: str) -> str:
        if self._token is None:
            raise AssertionError("nobody logs in where there is no token")
        return hmac.new(self._token.encode(), b"aperture dashboard " + expires.encode(), hashlib.sha256).hexdigest()


def _is_local(asking: Asking) -> bool:
    forwarded = any(name.lower().startswith(_FORWARDED) for name in asking.header_names)
    return not forwarded and _is_loopback(asking.peer) and _names_this_machine(asking.host)


def _is_loopback(address: str | None) -> bool:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _names_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name)
