"""Addresses: of an app, of its websocket, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from bokeh.resources import DEFAULT_SERVER_HTTP_URL

from aperture.errors import BadAddress
from aperture.paths import requoted

__all__ = [
    "DEFAULT_WEBSOCKET_URL",
    "app_url",
    "server_url_for_websocket_url",
    "websocket_url_for_server_url",
    "with_query",
]

_SECURE = {"http": "ws", "https": "wss"}
_PLAIN = {"ws": "http", "wss": "https"}


def app_url(url: str) -> str:
    """The address of an app, without a slash at its end; `"default"` is the root of a local server.

    Raises:
        BadAddress: it is a websocket's address, or not an address.
    """
    if url == "default":
        url = DEFAULT_SERVER_HTTP_URL
    parts = urlsplit(url)
    if parts.scheme in _PLAIN:
        raise BadAddress(f"{url} is the address of a websocket; give the app's, which begins with http: or https:")
    _check(url, parts.scheme in _SECURE)
    return urlunsplit(parts._replace(path=requoted(parts.path))).rstrip("/")


def websocket_url_for_server_url(url: str) -> str:
    """The address of the websocket of the app at this address.

    Raises:
        BadAddress: it is not an HTTP address.
    """
    parts = urlsplit(url)
    _check(url, parts.scheme in _SECURE)
    return urlunsplit(parts._replace(scheme=_SECURE[parts.scheme], path=requoted(parts.path.rstrip("/")) + "/ws"))


def server_url_for_websocket_url(url: str) -> str:
    """The address of the app whose websocket this is, with a slash at its end.

    Raises:
        BadAddress: it is not an app's websocket.
    """
    parts = urlsplit(url)
    _check(url, parts.scheme in _PLAIN)
    if not parts.path.endswith("/ws"):
        raise BadAddress(f"{url} is no app's websocket: its path does not end in /ws")
    return urlunsplit(parts._replace(scheme=_PLAIN[parts.scheme], path=parts.path.removesuffix("ws")))


def with_query(url: str, arguments: Mapping[str, str | Iterable[str]]) -> str:
    """The address with these arguments after its own."""
    parts = urlsplit(url)
    pairs: list[tuple[str, str]] = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in arguments.items():
        pairs += [(name, value)] if isinstance(value, str) else [(name, one) for one in value]
    return urlunsplit(parts._replace(query=urlencode(pairs)))


def _check(url: str, known_scheme: bool) -> None:
    try:
        parts = urlsplit(url)
        if known_scheme and parts.hostname and (parts.port is None or parts.port > 0):
            return
    except ValueError:
        pass  # a port that is no number, or a broken IPv6 address
    raise BadAddress(f"{url!r} is not an address like http://localhost:5006/app")


DEFAULT_WEBSOCKET_URL = websocket_url_for_server_url(DEFAULT_SERVER_HTTP_URL)
