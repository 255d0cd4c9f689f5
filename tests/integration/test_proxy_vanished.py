"""nginx as it is shipped, in front of a machine that has vanished, and of one that is slow."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.fetch import fetch
from support.patience import seconds
from support.proxy import Nginx

REQUESTS = 6


class Machine:
    """Answers with its name, while it is let.

    Args:
        name: its name.
    """

    def __init__(self, name: str) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        machine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                machine.asked += 1
                machine.may_answer.wait(seconds(30))
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Machine:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that does not answer, not even with a refusal: its queue is full, so the kernel is silent."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        for _ in range(4):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_machine_that_vanished_costs_nobody_a_page() -> None:
    """Each request is answered, by the other one if need be."""
    with black_hole() as gone, Machine("here") as machine, Nginx([gone, machine.address]) as nginx:
        machine.may_answer.set()
        answers = [fetch(nginx.url) for _ in range(REQUESTS)]
        assert [(answer.status, answer.text) for answer in answers] == [(200, "here")] * REQUESTS
        assert "upstream timed out" in nginx.errors(), "no request was sent to the machine that is gone"


def test_a_slow_page_is_asked_for_once() -> None:
    """A node that has the request may be running the app's code: another one would run it again."""
    shorter = {
        "proxy_read_timeout 120s": "proxy_read_timeout 2s",
        "proxy_next_upstream_timeout 5s": "proxy_next_upstream_timeout 1s",
    }
    with Machine("a") as one, Machine("b") as two, Nginx([one.address, two.address], instead=shorter) as nginx:
        assert fetch(nginx.url).status == 504
        assert one.asked + two.asked == 1


def test_only_connections_time_out_in_time_for_another_node() -> None:
    """What the test above has shortened is shipped in the same order."""
    text = Nginx.shipped.read_text()
    shipped = {name: int(value) for name, value in re.findall(r"(?m)^ *proxy_(\w+_timeout) (\d+)s;$", text)}
    assert shipped["connect_timeout"] < shipped["next_upstream_timeout"] < shipped["read_timeout"]
    assert shipped["next_upstream_timeout"] < shipped["send_timeout"]
