"""Which web origins may open a websocket, and read what a visitor's cookies are shown to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import urlsplit

from aperture.errors import ConfigurationError

__all__ = ["AllowedOrigins"]

_ANY = "*"
_DEFAULT_PORT = "80"


class AllowedOrigins:
    """A list of `host` or `host:port` patterns, as Bokeh's `--allow-websocket-origin` takes them.

    A pattern without a port means port 80. A `*` stands for any one part between the host's dots, or for the port; a
    lone `*` is any origin. Host and pattern must have the same number of parts: `dashboard.corp` admits neither
    `dashboard.corp.attacker.com` nor `attacker-dashboard.corp` (CVE-2026-21883).

    Raises:
        ConfigurationError: a pattern is not of that form.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_parsed(pattern) for pattern in patterns]

    def now(self) -> AllowedOrigins:
        """These, or those of `BOKEH_ALLOW_WS_ORIGIN`: Bokeh reads it at each check, and it replaces the option."""
        from_environment = os.environ.get("BOKEH_ALLOW_WS_ORIGIN")
        return AllowedOrigins(from_environment.split(",")) if from_environment else self

    def admits(self, origin: str) -> bool:
        """Whether a page of this origin (`scheme://host:port`, the Origin header) may connect."""
        try:
            netloc = urlsplit(origin).netloc if "//" in origin else origin
        except ValueError:  # brackets that are no IPv6 address
            return False
        host, _, port = netloc.lower().rpartition(":") if _has_port(netloc) else (netloc.lower(), "", _DEFAULT_PORT)
        return bool(host) and any(_matches(host, port, pattern) for pattern in self._patterns)


def _has_port(netloc: str) -> bool:
    return ":" in netloc.rpartition("]")[2]


def _parsed(pattern: str) -> tuple[str, str]:
    pattern = pattern.strip().lower()
    if pattern == _ANY:
        return (_ANY, _ANY)
    host, _, port = pattern.rpartition(":") if _has_port(pattern) else (pattern, "", _DEFAULT_PORT)
    if not host or not (port == _ANY or port.isdigit()):
        raise ConfigurationError(f"invalid websocket origin {pattern!r}: expected HOST or HOST:PORT")
    return (host, port)


def _matches(host: str, port: str, pattern: tuple[str, str]) -> bool:
    pattern_host, pattern_port = pattern
    if pattern_port not in (_ANY, port):
        return False
    if pattern_host == _ANY:
        return True
    if host.startswith("["):
        return host == pattern_host
    wanted, given = pattern_host.split("."), host.split(".")
    return len(wanted) == len(given) and all(w in (_ANY, g) for w, g in zip(wanted, given, strict=True))
