"""Reads the head of an HTTP request from bytes, without any I/O.

The gateway needs to know which worker a new connection is for, and nothing else of HTTP: once the head is complete the
socket goes to that worker, which parses the same bytes again with Tornado's full parser. So this parser is about as
tolerant as Tornado (bare LF passes, folded lines do not), and strict where that is cheap: a peer that does not speak
HTTP is refused at its first wrong byte, and a head that does not end is refused at the limit.

The result does not depend on how the bytes are cut into pieces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Head", "HeadParser", "Headers", "Rejected", "parse_head"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # RFC 9110 section 5.6.2

MAX_METHOD_LENGTH = 24
"""The longest registered method has 18 characters; anything longer without a space is not a request line."""

MAX_LEADING_BLANK = 4
"""RFC 9112 section 2.2 asks servers to skip one empty line before the request. Two are allowed, so a flood is not."""

_METHOD_COMPLETE = re.compile(rf"{_TOKEN}{{1,{MAX_METHOD_LENGTH}}} ".encode())
_METHOD_SO_FAR = re.compile(rf"{_TOKEN}{{1,{MAX_METHOD_LENGTH}}}".encode())
_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4
_REQUEST_LINE = re.compile(rf"({_TOKEN}+) ([^\x00-\x20\x7f]+) (HTTP/[0-9]\.[0-9])")
_FIELD = re.compile(rf"({_TOKEN}+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_TLS_HANDSHAKE = 0x16


class Rejected(Exception):
    """These bytes will never be a request.

    Args:
        status: the HTTP status to answer with: 400, 414, 431 or 505.
        reason: one line for the peer and for the log; it never quotes the bytes.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Headers:
    """The header fields of a request in the order they came."""

    fields: tuple[tuple[str, str], ...] = ()

    def get(self, name: str, default: str | None = None) -> str | None:
        """The values of `name`, case-insensitive, joined with commas as Tornado joins them."""
        return ",".join(values) if (values := self.get_all(name)) else default

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, case-insensitive."""
        wanted = name.lower()
        return [value for key, value in self.fields if key.lower() == wanted]


@dataclass(frozen=True, slots=True)
class Head:
    """The head of one request.

    Args:
        method: as sent; methods are case-sensitive (RFC 9110 section 9.1).
        target: the request target, whole.
        path: the target without scheme, authority and query; still percent-encoded.
        query: what follows the question mark, still percent-encoded; empty when there is none.
        version: `HTTP/1.0` or `HTTP/1.1`.
        headers: the header fields.
        raw: every byte received so far: the head, and any part of the body that came with it.
    """

    method: str
    target: str
    path: str
    query: str
    version: str
    headers: Headers
    raw: bytes


class HeadParser:
    """Collects bytes until they contain one request head.

    Args:
        max_size: the most bytes a head may have, from the method to the empty line.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._buffer = bytearray()
        self._blank = 0
        self._method_seen = False
        self._searched = 0

    @property
    def started(self) -> bool:
        """Whether the peer has sent anything at all."""
        return bool(self._buffer or self._blank)

    def feed(self, received: bytes) -> Head | None:
        """Add bytes. Returns the head once it is complete, None while more are needed.

        Raises:
            Rejected: this is not an acceptable request. The parser cannot be used afterwards.
        """
        self._buffer += received
        self._skip_blank_lines()
        self._check_method()
        end = self._find_end()
        if end is not None:
            return _parse(bytes(self._buffer), end)
        if len(self._buffer) >= self._max_size:
            raise self._too_large()
        return None

    def _skip_blank_lines(self) -> None:
        if self._method_seen:
            return
        before = len(self._buffer)
        content = self._buffer.lstrip(b"\r\n")
        self._blank += before - len(content)
        if self._blank > MAX_LEADING_BLANK:
            raise Rejected(400, "empty lines where a request was expected")
        self._buffer = content

    def _check_method(self) -> None:
        if self._method_seen or not self._buffer:
            return
        if _METHOD_COMPLETE.match(self._buffer):
            self._method_seen = True
        elif not _METHOD_SO_FAR.fullmatch(self._buffer):
            if self._buffer[0] == _TLS_HANDSHAKE:
                raise Rejected(400, "this port speaks plain HTTP, not TLS")
            raise Rejected(400, "this is not an HTTP request")

    def _find_end(self) -> int | None:
        """Where the head ends. Scans each byte once, however slowly they arrive: a slow peer must not cost quadratic
        time."""
        start = max(0, self._searched - _LONGEST_END + 1)
        found = _END.search(self._buffer, start, self._max_size)
        self._searched = min(len(self._buffer), self._max_size)
        return found.end() if found else None

    def _too_large(self) -> Rejected:
        if b"\n" in self._buffer[: self._max_size]:
            return Rejected(431, f"the request's headers are larger than {self._max_size} bytes")
        return Rejected(414, f"the request line is longer than {self._max_size} bytes")


def parse_head(raw: bytes, max_size: int) -> Head:
    """The head at the start of `raw`, which a worker has handed back and which is therefore complete.

    Raises:
        Rejected: it is not a complete, acceptable head.
    """
    head = HeadParser(max_size).feed(raw)
    if head is None:
        raise Rejected(400, "the request's head is not complete")
    return head


def _parse(raw: bytes, end: int) -> Head:
    # latin-1 maps every byte to one character, so nothing here can fail to decode.
    request_line, *lines = raw[:end].decode("latin-1").rstrip("\r\n").split("\n")
    match = _REQUEST_LINE.fullmatch(request_line.removesuffix("\r"))
    if match is None:
        raise Rejected(400, "malformed request line")
    method, target, version = match.groups()
    if not version.startswith("HTTP/1."):
        raise Rejected(505, f"{version} is not spoken here, HTTP/1.1 is")
    path, query = _split_target(target)
    headers = Headers(tuple(_parse_field(line.removesuffix("\r")) for line in lines))
    return Head(method, target, path, query, version, headers, raw)


def _parse_field(line: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        folded = line[:1] in (" ", "\t")
        raise Rejected(400, "folded header lines are not accepted" if folded else "malformed header line")
    return match[1], match[2].strip(" \t")


def _split_target(target: str) -> tuple[str, str]:
    if not target.startswith("/") and (authority := _AUTHORITY.match(target)):
        target = target[authority.end() :] or "/"  # the absolute form, as sent to proxies
    # A fragment does not belong there; the worker's parser leaves one where it is, and both must name the same session.
    path, _, query = target.partition("?")
    return path, query
