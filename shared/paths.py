"""Routes are names, URLs are bytes: the way from one to the other and back.

An app's route comes from a file's name, which may hold blanks, umlauts or brackets. Requests name it percent-encoded,
and every client encodes other characters than the next. So a request's path is decoded before it is compared, and a
route is encoded wherever a URL is made of it.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote_to_bytes

from aperture.errors import ConfigurationError

__all__ = ["checked_route", "path_of", "quoted", "requoted"]

_AS_THEY_ARE = "/!$()*+,:=@~"
"""What may stand in a path (RFC 3986, section 3.3), but for what HTML, cookies and shells take for their own."""

_IN_URLS = _AS_THEY_ARE + "%&';"
"""Characters that are not quoted in a path that was written as part of a URL."""

_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

_NO_TEXT = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's categories of control characters, lone surrogates, and what ends lines and paragraphs."""


def quoted(route: str) -> str:
    """The route as it stands in a URL."""
    return quote(route, safe=_AS_THEY_ARE)


def requoted(path: str) -> str:
    """The path of a URL with what cannot be sent encoded, and what is encoded already left as it is."""
    return quote(_STRAY_PERCENT.sub("%25", path), safe=_IN_URLS)


def path_of(requested: str) -> str | None:
    """The path that a request names, decoded; None if it is no text.

    Args:
        requested: as it was sent; a byte that is not ASCII is one character of latin-1, as HTTP parsers have it.
    """
    if "%" not in requested and requested.isascii():
        return requested  # nearly every request
    try:
        return unquote_to_bytes(requested.encode("latin-1")).decode()
    except UnicodeError:
        return None


def checked_route(route: str) -> str:
    """The route, if it can be one.

    Raises:
        ConfigurationError: it holds what no URL, log line or key can show: control characters, or bytes of a file's
            name that are not UTF-8.
    """
    if any(unicodedata.category(character) in _NO_TEXT for character in route):
        raise ConfigurationError(f"nothing can be served at {route!a}: that is not plain text")
    return route
