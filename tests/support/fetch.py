"""One HTTP request as a test wants it: no redirects followed, no headers invented, over TCP or a unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from support.patience import seconds

__all__ = ["Response", "fetch"]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Header names are lower-case; of a repeated header `headers` keeps the last, `all_headers` each."""

    status: int
    all_headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.all_headers)

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    def cookies(self) -> str:
        """The cookies that this answer sets, as a browser would send them back."""
        return "; ".join(value.split(";")[0] for name, value in self.all_headers if name == "set-cookie")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def fetch(
    url: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    unix_socket: str | None = None,
    trust: ssl.SSLContext | None = None,
) -> Response:
    """Send one request on a connection of its own and return the answer, whatever its status; `trust` is for TLS."""
    where = urlsplit(url)
    connection: http.client.HTTPConnection
    if unix_socket is not None:
        connection = _UnixConnection(unix_socket, seconds(30))
    elif trust is not None:
        name = where.hostname or "localhost"
        connection = http.client.HTTPSConnection(name, where.port, timeout=seconds(30), context=trust)
    else:
        connection = http.client.HTTPConnection(where.hostname or "localhost", where.port, timeout=seconds(30))
    target = (where.path or "/") + (f"?{where.query}" if where.query else "")
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Response(answer.status, tuple((k.lower(), v) for k, v in answer.getheaders()), answer.read())
    finally:
        connection.close()
