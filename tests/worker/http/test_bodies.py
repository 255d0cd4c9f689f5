"""What bodies may hold of a worker: by route, and all of them together."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.web import ErrorHandler, RequestHandler, StaticFileHandler

from aperture.worker.http.bodies import MAX_BODY, OWN_BODY, OWN_BODY_TIME, Bodies, has_body, takes_bodies
from aperture.worker.http.pages import PageHandler

POST = RequestStartLine("POST", "/", "HTTP/1.1")


class Connection:
    """What `Bodies` uses of Tornado's connection."""

    def __init__(self) -> None:
        self._max_body_size = MAX_BODY
        self.body_time: float | None = None
        self.answered: int | None = None
        self.closed = False

    def set_max_body_size(self, size: int) -> None:
        self._max_body_size = size

    def set_body_timeout(self, time: float) -> None:
        self.body_time = time

    def write_headers(self, start_line: ResponseStartLine, headers: HTTPHeaders) -> None:
        self.answered = start_line.code

    def finish(self) -> None:
        """The answer is complete."""

    def close(self) -> None:
        self.closed = True


class Delegate(HTTPMessageDelegate):
    """A request's handler; keeps what reaches it."""

    def __init__(self) -> None:
        self.heads = 0
        self.body = b""
        self.finished = False
        self.handler_class: type[RequestHandler] | None = None

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        self.heads += 1

    def data_received(self, chunk: bytes) -> None:
        self.body += chunk

    def finish(self) -> None:
        self.finished = True


class Upload(RequestHandler):
    """A handler of an app, or of an auth module."""


def arrive(bodies: Bodies, handler: type[RequestHandler]) -> tuple[Connection, Delegate, HTTPMessageDelegate]:
    """A request for a handler, with its connection and what is behind the bound."""
    connection, delegate = Connection(), Delegate()
    bounded = bodies.bound(delegate, cast("HTTP1Connection", cast("Any", connection)), handler)
    return connection, delegate, bounded


@pytest.mark.parametrize("handler", [PageHandler, StaticFileHandler, ErrorHandler])
def test_our_own_routes_take_small_bodies_in_a_short_time(handler: type[RequestHandler]) -> None:
    """None of them reads more than a form."""
    connection, delegate, bounded = arrive(Bodies(), handler)
    bounded.headers_received(POST, HTTPHeaders({"Content-Length": str(OWN_BODY + 1)}))
    assert (connection._max_body_size, connection.body_time) == (OWN_BODY, OWN_BODY_TIME)
    assert (connection.answered, delegate.heads) == (413, 0)


def test_an_application_that_is_only_asked_binds_nothing() -> None:
    """Dask asks one application after the other, looks at the handler's class, and takes the first that has one."""
    connection, delegate, bounded = arrive(Bodies(), ErrorHandler)
    delegate.handler_class = ErrorHandler
    shown: Any = bounded
    assert shown.handler_class is ErrorHandler
    assert (connection._max_body_size, connection.body_time) == (MAX_BODY, None)


def test_an_apps_own_route_takes_what_tornados_would() -> None:
    """An upload of 50 MB to a handler of an auth module, an extension or a program."""
    assert takes_bodies(Upload)
    connection, delegate, bounded = arrive(Bodies(), Upload)
    bounded.headers_received(POST, HTTPHeaders({"Content-Length": str(50 << 20)}))
    bounded.data_received(b"first")
    bounded.finish()
    assert (connection.answered, delegate.heads, delegate.body, delegate.finished) == (None, 1, b"first", True)


def test_all_bodies_together_are_bounded() -> None:
    """The one that has not got on for the longest time is given up, so that withheld bytes shut no one out."""
    bodies = Bodies(most=100)
    withheld, _, slow = arrive(bodies, Upload)
    progressing, _, quick = arrive(bodies, Upload)
    slow.data_received(b"x" * 60)
    quick.data_received(b"x" * 30)
    assert bodies.total == 90
    quick.data_received(b"x" * 30)
    assert (withheld.closed, progressing.closed, bodies.total) == (True, False, 60)
    quick.finish()
    assert bodies.total == 0
    slow.on_connection_close()
    assert bodies.total == 0


@pytest.mark.parametrize(
    ("headers", "promised"),
    [
        ({}, False),
        ({"Content-Length": "0"}, False),
        ({"Content-Length": "7"}, True),
        ({"Content-Length": "seven"}, False),
        ({"Content-Length": "9" * 400}, False),
        ({"Transfer-Encoding": "chunked"}, True),
    ],
)
def test_a_head_promises_a_body_or_not(headers: dict[str, str], promised: bool) -> None:
    """What is no length is Tornado's to refuse."""
    assert has_body(HTTPHeaders(headers)) is promised
