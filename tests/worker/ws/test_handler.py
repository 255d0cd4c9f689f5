"""A websocket that ends while it opens, or whose peer goes on sending after it was closed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from support.peers import in_loop

from aperture.config.settings import Settings
from aperture.worker.session.slice import Slice
from aperture.worker.ws.handler import SessionSocket


class _Handler(SessionSocket):
    """One without a request: what Tornado has closed has no connection any more."""

    def __init__(self) -> None:
        self.added: list[Any] = []
        self.ws_connection = None
        services = SimpleNamespace(
            settings=Settings(),
            sockets=SimpleNamespace(add=self.added.append),
            collector=SimpleNamespace(activity=lambda: None),
        )
        self.initialize(cast("Any", SimpleNamespace(url="/app")), cast("Any", services))


@in_loop
async def test_a_websocket_that_was_closed_while_it_opened_is_not_kept() -> None:
    handler = _Handler()
    await handler.open()
    assert not handler.added
    assert handler.attachment is None


def test_a_fragment_after_the_close_is_taken_in_silence() -> None:
    handler = _Handler()
    handler._slice = Slice(lambda: 0.0)  # its turn is not over, however slow the machine is
    assert handler.on_message('{"msgid": "1", "msgtype": "PATCH-DOC"}') is None
    assert handler._received.bytes > 0
