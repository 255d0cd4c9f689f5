"""The messages of Bokeh's protocol: what an assembler yields, and those that a server or a client sends.

A server's messages are built straight into frames, because the same bytes go to many viewers. A client's are left as
fragments, because its frames must be masked one connection at a time (RFC 6455, section 5.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import orjson

from aperture.protocol.frames import MAX_7_BIT, Buffer, FrameRun, parts_of
from aperture.protocol.json_text import presentable
from aperture.protocol.message_type import MessageType

__all__ = [
    "FramedDocument",
    "Message",
    "Request",
    "ack",
    "error",
    "ok",
    "patch",
    "patch_request",
    "patch_size",
    "pull_reply",
    "pull_request",
    "push",
    "refresh_request",
    "server_info_reply",
    "server_info_request",
    "without_patches",
]

_EMPTY = b"{}"

_next_id = count(1).__next__
"""Message ids need only differ within one process: a reply names the request of the connection it travels on."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was received.

    Args:
        msgid: the sender's name for it.
        msgtype: what it is; plain text where the protocol knows no such type.
        reqid: the id of the message that it answers.
        content: the parsed content fragment.
        buffers: binary data by the id that the content uses.
        metadata: the parsed metadata fragment; our server puts `epoch` and `seq` there, `part` where it is
            not 0, and `after` where one patch stands for several.
        size: bytes, over all its fragments.
    """

    msgid: str
    msgtype: MessageType | str
    reqid: str | None
    content: Any
    buffers: dict[str, bytes]
    metadata: dict[str, Any] = field(default_factory=dict)
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A client's message: its id, which the reply will name, and its fragments, one websocket message each."""

    msgid: str
    fragments: tuple[str | bytes | memoryview, ...]


@dataclass(frozen=True, slots=True)
class FramedDocument:
    """The part of a pull reply that does not depend on who has asked: content and buffers, as websocket frames.

    Args:
        parts: the frames, to be joined. They share memory with the document, unless it is `copied`.
        buffers: their number.
    """

    parts: Sequence[bytes | memoryview]
    buffers: int

    @classmethod
    def of(cls, content: bytes, buffers: Sequence[Buffer]) -> FramedDocument:
        """To be replied with before the document can change."""
        return cls(parts_of((content,), buffers), len(buffers))

    def copied(self) -> FramedDocument:
        """The same, for as long as one likes: what it was made of may change afterwards."""
        return FramedDocument((b"".join(self.parts),), self.buffers)

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def ack() -> FrameRun:
    """The server's first message on a new connection."""
    return _run(b'"ACK"')


def ok(reqid: str) -> FrameRun:
    """The request was carried out."""
    header = _header(b'"OK"', reqid, 0)
    # Nearly every answer; an id is the client's to choose, and may be of any length.
    return FrameRun.of_texts(header, _EMPTY, _EMPTY) if len(header) <= MAX_7_BIT else _run(b'"OK"', reqid)


def error(reqid: str, text: str, traceback: str | None = None) -> FrameRun:
    """The request failed; the connection stays."""
    return _run(b'"ERROR"', reqid, content=_dumps({"text": text, "traceback": traceback}))


def pull_reply(reqid: str, document: FramedDocument, *, epoch: int, sequence: int) -> FrameRun:
    """The whole document, framed already, as of a place in the session's sequence."""
    header = _header(b'"PULL-DOC-REPLY"', reqid, document.buffers)
    # Joined once: a plot may have megabytes.
    return FrameRun(b"".join((*parts_of((header, _place(epoch, sequence))), *document.parts)))


def patch(
    content: bytes, buffers: Sequence[Buffer], *, epoch: int, sequence: int, part: int = 0, after: int | None = None
) -> FrameRun:
    """Document events, at a place in the session's sequence.

    Args:
        content: `{"events": […]}`.
        buffers: that the content refers to.
        epoch: of the session's claim.
        sequence: its place.
        part: counts the patches of one place.
        after: the place that it follows, if it stands for more than one patch.
    """
    if after is not None:
        metadata = b'{"epoch":%d,"seq":%d,"part":%d,"after":%d}' % (epoch, sequence, part, after)
        return _run(b'"PATCH-DOC"', content=content, buffers=buffers, metadata=metadata)
    if part:
        metadata = b'{"epoch":%d,"seq":%d,"part":%d}' % (epoch, sequence, part)
        return _run(b'"PATCH-DOC"', content=content, buffers=buffers, metadata=metadata)
    if not buffers:
        # Nearly every patch, so the general way's loop and keywords, which double its cost, are left out.
        header = b'{"msgid":"s%d","msgtype":"PATCH-DOC"}' % _next_id()
        return FrameRun.of_texts(header, b'{"epoch":%d,"seq":%d}' % (epoch, sequence), content)
    return _run(b'"PATCH-DOC"', content=content, buffers=buffers, metadata=_place(epoch, sequence))


def server_info_reply(reqid: str, version: str) -> FrameRun:
    """The version of Bokeh, twice: a client may compare either with its own, and Bokeh's server has no other."""
    content = _dumps({"version_info": {"bokeh": version, "server": version}})
    return _run(b'"SERVER-INFO-REPLY"', reqid, content=content)


def pull_request() -> Request:
    """A client asks for the document."""
    return _request(MessageType.PULL_DOC_REQ)


def push(content: bytes, buffers: Sequence[Buffer]) -> Request:
    """A client replaces the document; content is `{"doc": …}`."""
    return _request(MessageType.PUSH_DOC, content, buffers)


def patch_request(content: bytes, buffers: Sequence[Buffer]) -> Request:
    """A client sends document events; content is `{"events": […]}`."""
    return _request(MessageType.PATCH_DOC, content, buffers)


def refresh_request(after: int) -> Request:
    """An edge asks, for one of its viewers, for the present values of what patches behind this one have changed."""
    return _request(MessageType.REFRESH_REQ, _dumps({"after": after}))


def server_info_request() -> Request:
    """A client asks for versions, and so learns that the server still answers."""
    return _request(MessageType.SERVER_INFO_REQ)


def without_patches(run: FrameRun) -> FrameRun | None:
    """What remains of messages in frames when the patches among them are left out."""
    kept: list[memoryview] = []
    skipped = False
    frames = run.frames()
    for frame, payload in frames:
        header = orjson.loads(payload)
        message = [frame, *(part for part, _ in islice(frames, 2 + 2 * header.get("num_buffers", 0)))]
        if header["msgtype"] == MessageType.PATCH_DOC:
            skipped = True
        else:
            kept += message
    if not skipped:
        return run
    return FrameRun(b"".join(kept)) if kept else None


def patch_size(run: FrameRun) -> int:
    """Bytes of the patches among messages in frames; 0 if there is none."""
    size = 0
    frames = run.frames()
    for frame, payload in frames:
        header = orjson.loads(payload)
        message = [frame, *(part for part, _ in islice(frames, 2 + 2 * header.get("num_buffers", 0)))]
        if header["msgtype"] == MessageType.PATCH_DOC:
            size += sum(map(len, message))
    return size


def _run(
    quoted_type: bytes,
    reqid: str | None = None,
    *,
    content: bytes = _EMPTY,
    buffers: Sequence[Buffer] = (),
    metadata: bytes = _EMPTY,
) -> FrameRun:
    return FrameRun.build((_header(quoted_type, reqid, len(buffers)), metadata, content), buffers)


def _header(quoted_type: bytes, reqid: str | None, buffers: int) -> bytes:
    header = b'{"msgid":"s%d","msgtype":%b' % (_next_id(), quoted_type)
    if reqid is not None:
        header += b',"reqid":' + _dumps(reqid)
    # Without buffers the field is left out: every receiver reads its absence as none.
    return header + (b',"num_buffers":%d}' % buffers if buffers else b"}")


def _request(msgtype: str, content: bytes = _EMPTY, buffers: Sequence[Buffer] = ()) -> Request:
    msgid = f"c{_next_id()}"
    header: dict[str, Any] = {"msgid": msgid, "msgtype": msgtype}
    if buffers:
        header["num_buffers"] = len(buffers)
    fragments: list[str | bytes | memoryview] = [_dumps(header).decode(), "{}", content.decode()]
    for buffer in buffers:
        fragments.append(_dumps({"id": buffer.id}).decode())
        fragments.append(buffer.data)
    return Request(msgid, tuple(fragments))


def _place(epoch: int, sequence: int) -> bytes:
    return b'{"epoch":%d,"seq":%d}' % (epoch, sequence)


def _dumps(value: Any) -> bytes:
    """JSON, also for text that came with lone surrogates (a traceback can quote a file name), which orjson refuses."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_presentable(value))


def _presentable(value: Any) -> Any:
    if isinstance(value, str):
        return presentable(value)
    if isinstance(value, dict):
        return {key: _presentable(item) for key, item in value.items()}
    return value
