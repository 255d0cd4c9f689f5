"""Fragments in, messages out: the receiving half of Bokeh's protocol.

A message arrives as text fragments (header, metadata, content) and then, for each buffer that the header announces, a
text fragment with its id and a binary one with its bytes. The order is fixed, so there is one method per state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from aperture.errors import ProtocolError
from aperture.protocol.closing import MESSAGE_TOO_BIG, NO_TEXT, PROTOCOL_ERROR
from aperture.protocol.json_text import read_json
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message

__all__ = ["MAX_BUFFERS", "Assembler"]

MAX_BUFFERS = 65_536
"""Far above any document's count of arrays; a header that announces more is not believed."""


class Assembler:
    """Assembles the messages of one connection; not to be shared between connections.

    Args:
        max_message_size: bytes of one message, over all its fragments.
    """

    __slots__ = (
        "_awaited", "_buffer_id", "_buffers", "_consume", "_content", "_header", "_limit", "_metadata", "_size",
    )  # fmt: skip

    def __init__(self, max_message_size: int) -> None:
        self._limit = max_message_size
        self._consume: Callable[[str | bytes], Message | None] = self._read_header
        self._size = 0
        self._header: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}
        self._content: Any = None
        self._awaited = 0
        self._buffer_id = ""
        self._buffers: dict[str, bytes] = {}

    def feed(self, fragment: str | bytes) -> Message | None:
        """Take one websocket message; the protocol message that it completes, if it does.

        Raises:
            ProtocolError: with the code to close the connection with; every later call raises again.
        """
        self._size += len(fragment) if isinstance(fragment, bytes) or fragment.isascii() else _utf8_size(fragment)
        if self._size > self._limit:
            self._fail(f"message is larger than {self._limit} bytes", MESSAGE_TOO_BIG)
        return self._consume(fragment)

    @property
    def between_messages(self) -> bool:
        """Whether the next fragment starts a new message."""
        return self._consume == self._read_header

    def _read_header(self, fragment: str | bytes) -> None:
        header = self._object(fragment, "header")
        for name in ("msgid", "msgtype"):
            if not isinstance(header.get(name), str):
                self._fail(f"header has no {name}")
        reqid = header.get("reqid")
        if reqid is not None and not isinstance(reqid, str):
            self._fail("reqid is not a string")
        awaited = header.get("num_buffers", 0)
        if type(awaited) is not int or awaited < 0:
            self._fail("num_buffers is not a count")
        if awaited > MAX_BUFFERS:
            self._fail(f"more than {MAX_BUFFERS} buffers", MESSAGE_TOO_BIG)
        self._header = header
        self._awaited = awaited
        self._consume = self._read_metadata

    def _read_metadata(self, fragment: str | bytes) -> None:
        # Neither BokehJS nor Bokeh's client ever has any.
        self._metadata = {} if fragment == "{}" else self._object(fragment, "metadata")
        self._consume = self._read_content

    def _read_content(self, fragment: str | bytes) -> Message | None:
        self._content = self._parse(fragment, "content")
        return self._finish_or_await_buffer()

    def _read_buffer_id(self, fragment: str | bytes) -> None:
        head = self._object(fragment, "buffer header")
        name = head.get("id")
        if len(head) != 1 or not isinstance(name, str):
            self._fail("buffer header is not one id")
        if name in self._buffers:
            self._fail("two buffers with one id")
        self._buffer_id = name
        self._consume = self._read_buffer

    def _read_buffer(self, fragment: str | bytes) -> Message | None:
        if not isinstance(fragment, bytes):
            self._fail("expected a binary fragment for a buffer")
        self._buffers[self._buffer_id] = fragment
        return self._finish_or_await_buffer()

    def _finish_or_await_buffer(self) -> Message | None:
        if len(self._buffers) < self._awaited:
            self._consume = self._read_buffer_id
            return None
        header = self._header
        message = Message(
            header["msgid"],
            MessageType.of(header["msgtype"]),
            header.get("reqid"),
            self._content,
            self._buffers,
            self._metadata,
            self._size,
        )
        self._size = 0
        self._header = self._metadata = {}
        self._content = None
        self._buffers = {}
        self._consume = self._read_header
        return message

    def _object(self, fragment: str | bytes, what: str) -> dict[str, Any]:
        parsed = self._parse(fragment, what)
        if not isinstance(parsed, dict):
            self._fail(f"{what} is not an object")
        return parsed

    def _parse(self, fragment: str | bytes, what: str) -> Any:
        if not isinstance(fragment, str):
            self._fail(f"expected a text fragment for the {what}")
        try:
            return read_json(fragment)
        except ValueError:
            self._fail(f"{what} is not JSON", NO_TEXT)

    def _fail(self, reason: str, close_code: int = PROTOCOL_ERROR) -> NoReturn:
        self._buffers = {}
        self._content = None
        self._consume = self._refuse
        raise ProtocolError(reason, close_code)

    def _refuse(self, fragment: str | bytes) -> NoReturn:
        self._fail("nothing more is read after a protocol error")


def _utf8_size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
