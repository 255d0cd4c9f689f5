"""Whatever the parts of a request hold, it is answered, not with a 5xx, and it leaves no traceback in the log."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from support.node import Node
from support.patience import seconds

TOKEN = "an-admin-token.of-the-tests"

ROUTES = [
    "/relayed",
    "/relayed/",
    "/relayed/autoload.js",
    "/relayed/ws",
    "/relayed/metadata",
    "/relayed/static/x",
    "/static/js/bokeh.min.js",
    "/static/extensions/x/y.js",
    "/favicon.ico",
    "/",
    "/admin",
    "/admin/login",
    "/admin/ws",
    "/admin/autoload.js",
    "/admin/metadata",
    "/none",
]
ADMIN_ROUTES = ["/livez", "/readyz", "/workers", "/sessions", "/sessions/x", "/metrics", "/none", "/"]

BAD_VALUES = [
    b"",
    b" ",
    b",",
    b";",
    b"=",
    b"\xff\xfe",
    b"\xc3\xa9\xe2\x82\xac",
    b"%",
    b"%zz%",
    b"%00",
    b"{}",
    b"%s%d%(x)s",
    b"[",
    b"]",
    b"[::1",
    b"[localhost:5006",
    b"http://[",
    b"http://[::1]:x",
    b"https://a:99999999999",
    b"//",
    b"://",
    b"http://",
    b"http:///",
    b"a:b:c",
    b"a@b@c",
    b"localhost:",
    b"localhost:-1",
    b"localhost:70000",
    b"1" * 400,
    b"a" * 4000,
    b'"',
    b'"\\',
    b"a=b; c",
    b'a="\\377"; b="\\',
    b"=;=;=",
    b"null",
    b"-1",
    b"9" * 30,
    b"*",
    b"bytes=-",
    b"bytes=0-,",
    b"bytes=9-1",
    b"bytes=99999999999999999999-",
    b'W/"',
    b"Thu, 99 Foo 99999 99:99:99 GMT",
    b"gzip;q=x",
    b"gzip;q=;;=,",
    b"text/html;q=nan, application/openmetrics-text;version=x",
    b"multipart/form-data",
    b"multipart/form-data; boundary=",
    b"bokeh, ",
    b"bokeh, %",
    b"bokeh, \xff",
    b"bokeh, eyJzZXNzaW9uX2lkIjogbnVsbH0",
    b"permessage-deflate; server_max_window_bits=99",
    b"permessage-deflate; client_max_window_bits=x; ;=",
    b"Basic \xff",
    b"Bearer",
    b"Bearer %",
    b'for="[";host=[;proto=',
    b"chunked, gzip",
]

HEADERS = [
    b"Host",
    b"X-Forwarded-For",
    b"X-Forwarded-Host",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Port",
    b"X-Forwarded-Prefix",
    b"X-Real-Ip",
    b"X-Scheme",
    b"Forwarded",
    b"Referer",
    b"Cookie",
    b"Origin",
    b"Sec-Fetch-Site",
    b"If-None-Match",
    b"If-Modified-Since",
    b"Range",
    b"Accept",
    b"Accept-Encoding",
    b"Accept-Language",
    b"Authorization",
    b"Content-Type",
    b"Access-Control-Request-Headers",
    b"Bokeh-Session-Id",
    b"X-Request-Id",
    b"traceparent",
    b"Sec-WebSocket-Protocol",
    b"Sec-WebSocket-Key",
    b"Sec-WebSocket-Version",
    b"Sec-WebSocket-Extensions",
    b"Upgrade",
    b"Connection",
]

TARGETS = [
    b"?",
    b"?&&=&",
    b"?%",
    b"?a=%zz&b=%ff",
    b"?bokeh-session-id=",
    b"?bokeh-session-id=%ff%fe",
    b"?bokeh-session-id=%00",
    b"?bokeh-session-id=%ed%a0%80",
    b"?bokeh-session-id=a&bokeh-session-id=b",
    b"?bokeh-token=",
    b"?bokeh-token=.",
    b"?bokeh-token=%ff",
    b"?bokeh-token=eyJzZXNzaW9uX2lkIjogbnVsbH0",
    b"?bokeh-token=eyJzZXNzaW9uX2lkIjogMX0&bokeh-session-id=x",
    b"?bokeh-autoload-element=",
    b"?bokeh-autoload-element=%ff%3Cscript%3E",
    b"?bokeh-autoload-element=x&bokeh-app-path=%ff%00",
    b"?bokeh-autoload-element=x&bokeh-absolute-url=http://[",
    b"?bokeh-autoload-element=x&bokeh-absolute-url=%ff",
    b"?bokeh-autoload-element=x&bokeh-absolute-url=http://a:99999999999",
    b"?bokeh-autoload-element=x&resources=%ff",
    b"?next=//evil.example",
    b"?next=%ff%0d%0aX:y",
    b"?next=http://[",
    b"?v=" + b"a" * 3000,
    b"?" + b"&".join(b"a%d=%d" % (number, number) for number in range(300)),
    b"?cluster=%ff&verbose=%00",
    b"/%ff",
    b"/%00",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/..%2f..%2fetc%2fpasswd",
    b"/%zz",
    b"/\xff",
    b"//",
    b"/" + b"a" * 300,
    b"#fragment",
    b";x=y",
    b"%",
    b"%ed%a0%80",
]

METHODS = [b"HEAD", b"OPTIONS", b"POST", b"PUT", b"DELETE", b"PATCH", b"BREW"]


def request(method: bytes, target: bytes, headers: dict[bytes, bytes], body: bytes = b"") -> bytes:
    sent = {b"Host": b"localhost", b"Connection": b"close", **headers}
    if body:
        sent[b"Content-Length"] = b"%d" % len(body)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in sent.items())
    return method + b" " + target + b" HTTP/1.1\r\n" + lines + b"\r\n" + body


def handshake(headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """A websocket's request, but for these."""
    return {
        b"Upgrade": b"websocket",
        b"Connection": b"Upgrade",
        b"Sec-WebSocket-Version": b"13",
        b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Protocol": b"bokeh, eyJzZXNzaW9uX2lkIjogImEiLCAic2Vzc2lvbl9leHBpcnkiOiA5OTk5OTk5OTk5fQ",
        **headers,
    }


def requests(route: str, seed: int) -> Iterator[bytes]:
    """Each header with some of the values, two at a time as well, each odd end of the target, and other methods."""
    chance = random.Random(f"{route} {seed}")
    path = route.encode()
    websocket = route.endswith("/ws")
    with_all = handshake if websocket else dict
    for name in HEADERS:
        for value in chance.sample(BAD_VALUES, 6):
            yield request(b"GET", path, with_all({name: value}))
    for _ in range(60):
        chosen = {name: chance.choice(BAD_VALUES) for name in chance.sample(HEADERS, 3)}
        yield request(b"GET", path + chance.choice(TARGETS), with_all(chosen))
    for target in TARGETS:
        yield request(b"GET", path + target, with_all({}))
    for method in METHODS:
        yield request(method, path, {b"Content-Type": chance.choice(BAD_VALUES)}, b"%ff=\xff&=&%")
        yield request(method, path + chance.choice(TARGETS), with_all({}))


def status(port: int, sent: bytes) -> int:
    """Of the answer; 0 for a connection that was closed without one, as a request that is no HTTP may be."""
    with socket.create_connection(("127.0.0.1", port), seconds(20)) as connection:
        connection.sendall(sent)
        head = b""
        while b"\r\n" not in head:
            try:
                more = connection.recv(4096)
            except ConnectionResetError:
                return 0
            if not more:
                return 0
            head += more
    assert head.startswith(b"HTTP/1.1 "), head[:200]
    return int(head[9:12])


def failures(port: int, sent: Iterator[bytes]) -> list[tuple[int, bytes]]:
    answers = ((status(port, one), one) for one in sent)
    return [(code, one[:600]) for code, one in answers if code >= 500]


def vanish(port: int, sent: bytes, wait: bool) -> None:
    """Send this and cut the connection off with a reset, at once or when the answer begins to come."""
    with socket.create_connection(("127.0.0.1", port), seconds(20)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(sent)
        if wait:
            connection.recv(1)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    options = ["--admin", "--use-xheaders", "--allow-websocket-origin", "*", "--log-format", "human"]
    env = {"APERTURE_ADMIN_TOKEN": TOKEN}
    with Node("relayed.py", options=options, env=env, wait=False) as running:
        running.await_ready()
        yield running


@pytest.mark.parametrize("route", ROUTES)
def test_a_request_to_a_worker_is_answered(node: Node, route: str) -> None:
    """Pages, assets, websockets, metadata, and those of the dashboard."""
    before = len(node.log())
    assert failures(node.port, requests(route, 1)) == []
    assert "Traceback" not in node.log()[before:]


@pytest.mark.parametrize("route", ADMIN_ROUTES)
def test_a_request_to_the_admin_port_is_answered(node: Node, route: str) -> None:
    """With a token or without."""
    port = urlsplit(node.admin_url).port
    assert port is not None
    before = len(node.log())
    assert failures(port, requests(route, 2)) == []
    assert "Traceback" not in node.log()[before:]


@pytest.mark.parametrize("route", ROUTES)
def test_a_peer_that_vanishes_leaves_no_traceback(node: Node, route: str) -> None:
    """Within its request, behind it, and within its answer."""
    before = len(node.log())
    headers = handshake({}) if route.endswith("/ws") else {}
    whole = request(b"GET", route.encode(), headers)
    for end in (1, len(whole) // 2, len(whole)):
        for wait in (False, True) if end == len(whole) else (False,):
            for _ in range(5):
                vanish(node.port, whole[:end], wait)
    assert status(node.port, request(b"GET", b"/relayed/metadata", {})) == 200
    assert "Traceback" not in node.log()[before:]
