"""Messages: what we build is what Bokeh's receiver and our own assembler read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from bokeh.protocol import Protocol
from bokeh.protocol.receiver import Receiver
from support.frames import fragments_of

from aperture.protocol import messages
from aperture.protocol.fragments import Assembler
from aperture.protocol.frames import Buffer, FrameRun
from aperture.protocol.messages import FramedDocument, Message, Request

BUFFERS = [Buffer("b1", b"\0\1"), Buffer("b2", b""), Buffer("b3", memoryview(b"three"))]
BYTES = {"b1": b"\0\1", "b2": b"", "b3": b"three"}
VERSIONS = {"version_info": {"bokeh": "3.9.2", "server": "3.9.2"}}

RUNS: dict[str, tuple[FrameRun, Message]] = {
    run_name: (run, Message("", msgtype, reqid, content, buffers, metadata))
    for run_name, run, msgtype, reqid, content, buffers, metadata in (
        ("ack", messages.ack(), "ACK", None, {}, {}, {}),
        ("ok", messages.ok("r1"), "OK", "r1", {}, {}, {}),
        ("odd-reqid", messages.ok('a"\\é\n'), "OK", 'a"\\é\n', {}, {}, {}),
        ("error", messages.error("r1", "bad"), "ERROR", "r1", {"text": "bad", "traceback": None}, {}, {}),
        ("traceback", messages.error("r1", "é", "T"), "ERROR", "r1", {"text": "é", "traceback": "T"}, {}, {}),
        ("info", messages.server_info_reply("r1", "3.9.2"), "SERVER-INFO-REPLY", "r1", VERSIONS, {}, {}),
        (
            "pull",
            messages.pull_reply("r1", FramedDocument.of(b'{"doc":{}}', BUFFERS), epoch=2, sequence=9),
            "PULL-DOC-REPLY",
            "r1",
            {"doc": {}},
            BYTES,
            {"epoch": 2, "seq": 9},
        ),
        (
            "pull-without-buffers",
            messages.pull_reply("r1", FramedDocument.of(b'{"doc":{}}', []), epoch=2, sequence=9),
            "PULL-DOC-REPLY",
            "r1",
            {"doc": {}},
            {},
            {"epoch": 2, "seq": 9},
        ),
        (
            "patch",
            messages.patch(b'{"events":[]}', BUFFERS, epoch=1, sequence=17),
            "PATCH-DOC",
            None,
            {"events": []},
            BYTES,
            {"epoch": 1, "seq": 17},
        ),
    )
}

REQUESTS = {
    "PULL-DOC-REQ": (messages.pull_request(), {}, {}),
    "SERVER-INFO-REQ": (messages.server_info_request(), {}, {}),
    "PUSH-DOC": (messages.push(b'{"doc":{}}', BUFFERS), {"doc": {}}, BYTES),
    "PATCH-DOC": (messages.patch_request(b'{"events":[]}', BUFFERS), {"events": []}, BYTES),
}


def received_by_bokeh(fragments: list[str | bytes]) -> Any:
    """The message that Bokeh's receiver makes of these fragments."""

    async def consume() -> Any:
        receiver = Receiver(Protocol())
        message = None
        for fragment in fragments:
            assert message is None, "a message is complete with its last fragment"
            message = await receiver.consume(fragment)
        return message

    return asyncio.run(consume())


def assembled(fragments: list[str | bytes]) -> Message:
    assembler = Assembler(1 << 20)
    *before, message = [assembler.feed(fragment) for fragment in fragments]
    assert not any(before)
    assert message is not None
    return message


def as_received(request: Request) -> list[str | bytes]:
    """A client's fragments, as they leave a websocket."""
    return [bytes(part) if isinstance(part, memoryview) else part for part in request.fragments]


@pytest.mark.parametrize("name", RUNS)
def test_our_assembler_reads_our_messages(name: str) -> None:
    """Every kind of message comes back with its fields."""
    run, expected = RUNS[name]
    got = assembled(fragments_of(run.plain))
    assert got == Message(got.msgid, *(getattr(expected, field) for field in Message.__slots__[1:]))


@pytest.mark.parametrize("name", RUNS)
def test_bokeh_reads_our_messages(name: str) -> None:
    """Bokeh's receiver makes the message of the right type, with the same buffers."""
    run, expected = RUNS[name]
    got = received_by_bokeh(fragments_of(run.plain))
    assert (got.msgtype, got.header.get("reqid"), got.content) == (expected.msgtype, expected.reqid, expected.content)
    assert {buffer.id: buffer.data for buffer in got.buffers} == expected.buffers


@pytest.mark.parametrize("length", [0, 1, 70, 80, 85, 90, 95, 200, 70_000])
def test_an_answer_names_a_request_of_any_length(length: int) -> None:
    """Short ones are framed in another way than long ones; the frames are the same."""
    run = messages.ok("r" * length)
    header, metadata, content = fragments_of(run.plain)
    assert (metadata, content) == ("{}", "{}")
    assert json.loads(header)["reqid"] == "r" * length
    assert run.plain == FrameRun.build((str(header).encode(), b"{}", b"{}")).plain


@pytest.mark.parametrize("msgtype", REQUESTS)
def test_requests_are_read_by_both(msgtype: str) -> None:
    """What our client sends, a stock server and ours understand."""
    request, content, buffers = REQUESTS[msgtype]
    fragments = as_received(request)
    assert assembled(fragments) == Message(request.msgid, msgtype, None, content, buffers, {})
    got = received_by_bokeh(fragments)
    assert (got.header["msgid"], got.msgtype, got.content) == (request.msgid, msgtype, content)
    assert {buffer.id: buffer.data for buffer in got.buffers} == buffers


def test_ids_differ_from_message_to_message() -> None:
    """A reply names one request, so no two messages of a process share an id."""
    ids = [assembled(fragments_of(messages.ok("r").plain)).msgid for _ in range(50)]
    ids += [messages.pull_request().msgid for _ in range(50)]
    assert len(set(ids)) == 100


def test_text_with_lone_surrogates_can_be_reported() -> None:
    """An error that quotes an undecodable file name still reaches the browser."""
    message = assembled(fragments_of(messages.error("r", "no \udcff", "in \udcff").plain))
    assert message.content == {"text": "no \ufffd", "traceback": "in \ufffd"}


def test_a_kept_document_is_as_it_was() -> None:
    """What it was made of may change, while one that is sent at once is not copied first."""
    data = bytearray(b"before")
    document = FramedDocument.of(b"{}", [Buffer("b1", memoryview(data))])
    kept = document.copied()
    assert len(kept) == len(document)
    data[:] = b"behind"
    assert messages.pull_reply("r1", kept, epoch=1, sequence=1).plain.endswith(b"before")
    assert messages.pull_reply("r1", document, epoch=1, sequence=1).plain.endswith(b"behind")
