"""Who may see the dashboard.

With an admin token: every browser that has logged in with it, from anywhere. Without one: browsers on this machine. A
request through a proxy can come from any client, although its address is local, so it is refused; so is one whose Host
is not this machine, because a hostile page can resolve its own name to 127.0.0.1 (DNS rebinding).

If the apps have a login, the handlers require it as well.
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
"""Seconds: longer than a working day, so that a login lasts for one."""

_FORWARDED = ("forwarded", "via", "x-forwarded", "x-real-ip", "x-client-ip", "x-scheme", "true-client-ip", "cf-")
"""Prefixes of the headers that proxies add."""

NOT_HERE = (
    "The dashboard is shown to browsers on this machine only, and not through a proxy. Start the server with "
    "--admin-token to log in from elsewhere."
)
NOT_LOGGED_IN = "Log in with the admin token first."


@dataclass(frozen=True, slots=True)
class Asking:
    """The facts of a request that the gate looks at.

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
        """Why the request is refused, as a sentence for its sender; None if it is allowed."""
        if self._token is not None:
            return None if self._is_ours(asking.cookies.get(COOKIE, "")) else NOT_LOGGED_IN
        return None if _is_local(asking) else NOT_HERE

    def accepts(self, token: str) -> bool:
        """Whether this is the admin token."""
        return self._token is not None and hmac.compare_digest(self._token.encode(), token.strip().encode())

    def cookie(self) -> str:
        """Make a cookie value for a browser that has sent the token. The token cannot be derived from it."""
        expires = str(int(self._clock()) + LOGIN_LIFETIME)
        return f"{expires}.{self._signature(expires)}"

    def _is_ours(self, cookie: str) -> bool:
        expires, _, signature = cookie.partition(".")
        if not hmac.compare_digest(self._signature(expires).encode(), signature.encode()):
            return False
        return expires.isdecimal() and int(expires) > self._clock()

    def _signature(self, expires: str) -> str:
        if self._token is None:
            raise AssertionError("without a token there is no login")
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
