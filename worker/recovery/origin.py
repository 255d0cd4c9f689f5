"""What a session was created from, as bytes: the app's code must see the same request when it runs again elsewhere."""

from __future__ import annotations

from typing import Any

import msgpack
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from aperture.errors import StateMismatch
from aperture.worker.session.host import Origin
from aperture.worker.session.session_request import SessionRequest

__all__ = ["pack_origin", "unpack_origin"]

FORMAT = 2
"""Of these bytes, which a worker of a later version may find: a session of another format starts afresh."""

_INTEGER = 1
"""The code of an integer beyond 64 bits."""


def pack_origin(origin: Origin, fingerprint: str) -> bytes:
    """The request, and the fingerprint of the document that the app made for it."""
    request = origin.request
    seen: dict[str, Any] | None = None
    if request is not None:
        seen = {
            "uri": request.uri,
            "version": request.version,
            "host": request.host,
            "protocol": request.protocol,
            "remote_ip": request.remote_ip,
            "arguments": request.arguments,
            "cookies": request.cookies,
            "headers": request.headers,
        }
    content = [FORMAT, fingerprint, seen, origin.payload, origin.user]
    packed: bytes = msgpack.packb(content, default=_other, unicode_errors="surrogatepass")
    return packed


def unpack_origin(packed: bytes) -> tuple[Origin, str]:
    """The request and the fingerprint.

    Raises:
        StateMismatch: it is damaged, or of another format.
    """
    try:
        # The format first, and by itself: what follows it may have any number of parts.
        form, *parts = msgpack.unpackb(packed, ext_hook=_integer, strict_map_key=False, unicode_errors="surrogatepass")
        if form != FORMAT:
            raise StateMismatch(f"of format {form}, and this is {FORMAT}")
        fingerprint, seen, payload, user = parts
        return Origin(None if seen is None else _request(seen), payload, user=user), fingerprint
    except StateMismatch:
        raise
    # Whatever it is: other programs can write to Redis, and what cannot be read must not keep the page from being made.
    except Exception as problem:
        raise StateMismatch(f"damaged: {type(problem).__name__}") from problem


def _other(value: Any) -> Any:
    """What a hook has put into the payload and msgpack does not know: integers beyond 64 bits, and objects, as text."""
    if isinstance(value, int):
        return msgpack.ExtType(_INTEGER, str(int(value)).encode())
    # As an app would show it: to lose the value is better than to lose the session.
    return str(value)


def _integer(code: int, packed: bytes) -> int:
    if code != _INTEGER:
        raise ValueError(f"no kind of value is written as {code}")
    return int(packed)


def _request(seen: dict[str, Any]) -> SessionRequest:
    request = HTTPServerRequest(
        start_line=RequestStartLine("GET", seen["uri"], seen["version"]),
        # The host apart: the headers that the app sees may have been filtered.
        headers=HTTPHeaders({**seen["headers"], "Host": seen["host"]}),
    )
    request.remote_ip = seen["remote_ip"]
    request.protocol = seen["protocol"]
    return SessionRequest(request, arguments=seen["arguments"], cookies=seen["cookies"], headers=seen["headers"])
