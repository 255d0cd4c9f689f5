"""Which web origins may open a websocket, and read what a visitor's cookies are shown to."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeAlias
from urllib.parse import urlsplit

from bokeh.settings import settings as bokeh_settings

from aperture.errors import ConfigurationError

__all__ = ["AllowedOrigins"]

log = logging.getLogger(__name__)

_ANY = "*"
_DEFAULT_PORT = "80"
_SETTING = "BOKEH_ALLOW_WS_ORIGIN"

_Pattern: TypeAlias = tuple[str, str]
"""Host and port."""


class AllowedOrigins:
    """A list of `host` or `host:port` patterns, as Bokeh's `--allow-websocket-origin` takes them.

    A pattern without a port means port 80. A `*` stands for any one part between the host's dots, or for the port; a
    lone `*` is any origin. Host and pattern must have the same number of parts: `dashboard.corp` admits neither
    `dashboard.corp.attacker.com` nor `attacker-dashboard.corp` (CVE-2026-21883).

    Bokeh's setting `BOKEH_ALLOW_WS_ORIGIN` is read at each check, and replaces the list. There a pattern without a port
    means any port: Bokeh adds the 80 only to what the option gives.

    Raises:
        ConfigurationError: a pattern, of the list or of the setting as it is now, is not of that form.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_parsed(pattern, _DEFAULT_PORT) for pattern in patterns]
        self._setting = _stated()
        self._replacing = [_parsed(part, _ANY, of=_SETTING) for part in self._setting]

    def admits(self, origin: str) -> bool:
        """Whether a page of this origin (`scheme://host:port`, the Origin header) may connect."""
        try:
            netloc = urlsplit(origin).netloc if "//" in origin else origin
        except ValueError:  # brackets that are no IPv6 address
            return False
        host, _, port = netloc.lower().rpartition(":") if _has_port(netloc) else (netloc.lower(), "", _DEFAULT_PORT)
        return bool(host) and any(_matches(host, port, pattern) for pattern in self._now())

    def _now(self) -> list[_Pattern]:
        stated = _stated()
        if stated != self._setting:
            self._setting, self._replacing = stated, _parsed_as_far_as_possible(stated)
        return self._replacing if stated else self._patterns


def _stated() -> tuple[str, ...]:
    """The parts of Bokeh's setting, from the environment, a `--use-config` file or the program; none if it is empty."""
    try:
        parts = bokeh_settings.allowed_ws_origin()
    except ValueError:  # a file may hold what is no list
        raise ConfigurationError(f"{_SETTING}: not a list of HOST or HOST:PORT") from None
    return tuple(part for part in map(str, parts) if part.strip())


def _parsed_as_far_as_possible(parts: Iterable[str]) -> list[_Pattern]:
    """A change while the server runs cannot stop it: what is no pattern is logged, and admits no origin."""
    patterns = []
    for part in parts:
        try:
            patterns.append(_parsed(part, _ANY, of=_SETTING))
        except ConfigurationError as problem:
            log.error("%s; it admits no origin", problem)
    return patterns


def _has_port(netloc: str) -> bool:
    return ":" in netloc.rpartition("]")[2]


def _parsed(pattern: str, default_port: str, of: str = "") -> _Pattern:
    pattern = pattern.strip().lower()
    if pattern == _ANY:
        return (_ANY, _ANY)
    host, _, port = pattern.rpartition(":") if _has_port(pattern) else (pattern, "", default_port)
    if not host or "/" in host or not (port == _ANY or port.isdigit()):
        where = f"{of}: " if of else ""
        raise ConfigurationError(f"{where}invalid websocket origin {pattern!r}: expected HOST or HOST:PORT")
    return (host, port)


def _matches(host: str, port: str, pattern: _Pattern) -> bool:
    pattern_host, pattern_port = pattern
    if pattern_port not in (_ANY, port):
        return False
    if pattern_host == _ANY:
        return True
    if host.startswith("["):
        return host == pattern_host
    wanted, given = pattern_host.split("."), host.split(".")
    return len(wanted) == len(given) and all(w in (_ANY, g) for w, g in zip(wanted, given, strict=True))
