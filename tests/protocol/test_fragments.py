"""The assembler: Bokeh's messages put together from fragments, and everything else refused with a legal close code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture.errors import ProtocolError
from aperture.protocol.fragments import MAX_BUFFERS, Assembler
from aperture.protocol.messages import Message

LIMIT = 10_000
HEADER = '{"msgid":"1","msgtype":"PATCH-DOC"}'
LEGAL_CODES = {1002, 1007, 1009}


def feed(*fragments: str | bytes, limit: int = LIMIT) -> list[Message | None]:
    assembler = Assembler(limit)
    return [assembler.feed(fragment) for fragment in fragments]


def header(**fields: Any) -> str:
    return json.dumps({"msgid": "1", "msgtype": "PATCH-DOC", **fields})


def test_three_fragments_make_a_message() -> None:
    """Header, metadata and content are all that a message without buffers has."""
    assert feed(HEADER, '{"epoch":1,"seq":2}', '{"a":[1]}') == [
        None,
        None,
        Message("1", "PATCH-DOC", None, {"a": [1]}, {}, {"epoch": 1, "seq": 2}),
    ]


def test_buffers_follow_the_content() -> None:
    """Each announced buffer is an id and its bytes; the last completes the message."""
    *before, message = feed(header(num_buffers=2, reqid="r"), "{}", "[]", '{"id":"a"}', b"\0", '{"id":"b"}', b"")
    assert before == [None] * 6
    assert message == Message("1", "PATCH-DOC", "r", [], {"a": b"\0", "b": b""}, {})


def test_messages_follow_each_other() -> None:
    """After a message the next one starts fresh, with the whole size to itself."""
    content = json.dumps("x" * 60)
    got = feed(header(num_buffers=1), "{}", content, '{"id":"a"}', b"1", HEADER, "{}", content, limit=200)
    assert [message.buffers for message in got if message] == [{"a": b"1"}, {}]


def test_between_messages_is_said() -> None:
    """A connection can tell whether it stopped inside a message."""
    assembler = Assembler(LIMIT)
    assert assembler.between_messages
    assembler.feed(HEADER)
    assert not assembler.between_messages
    assembler.feed("{}")
    assembler.feed("{}")
    assert assembler.between_messages


@pytest.mark.parametrize(
    ("code", "fragments"),
    [
        (1002, [b"{}"]),
        (1002, [HEADER, b"{}"]),
        (1002, [HEADER, "{}", b"{}"]),
        (1002, [header(num_buffers=1), "{}", "{}", b"{}"]),
        (1002, [header(num_buffers=1), "{}", "{}", '{"id":"a"}', "text"]),
        (1002, ["[]"]),
        (1002, ['{"msgid":"1"}']),
        (1002, ['{"msgtype":"OK"}']),
        (1002, ['{"msgid":1,"msgtype":"OK"}']),
        (1002, ['{"msgid":"1","msgtype":null}']),
        (1002, [header(reqid=5)]),
        (1002, [header(num_buffers=-1)]),
        (1002, [header(num_buffers=True)]),
        (1002, [header(num_buffers="1")]),
        (1002, [header(num_buffers=1.0)]),
        (1009, [header(num_buffers=MAX_BUFFERS + 1)]),
        (1002, [HEADER, "5"]),
        (1002, [header(num_buffers=1), "{}", "{}", '{"id":5}']),
        (1002, [header(num_buffers=1), "{}", "{}", '{"id":"a","x":1}']),
        (1002, [header(num_buffers=2), "{}", "{}", '{"id":"a"}', b"", '{"id":"a"}']),
        (1007, ["{"]),
        (1007, [HEADER, "{", "{}"]),
        (1007, [HEADER, "{}", '{"a":NaN}']),
        (1007, [HEADER, "{}", '"\\ud800" NaN']),
        (1007, [HEADER, "{}", '["\\ud800", NaN]']),
        (1007, [HEADER, "{}", "[" * 5000]),
        (1007, [HEADER, "{}", "[" * 5000 + '"\\ud800']),
    ],
)
def test_anything_else_is_a_protocol_error(code: int, fragments: list[str | bytes]) -> None:
    """Wrong kind, missing fields, bad JSON: each with its own legal close code, and nothing is read afterwards."""
    assembler = Assembler(LIMIT)
    with pytest.raises(ProtocolError) as caught:
        for fragment in fragments:
            assembler.feed(fragment)
    assert caught.value.close_code == code
    assert len(str(caught.value).encode()) <= 123
    with pytest.raises(ProtocolError):
        assembler.feed(HEADER)


def test_the_size_limit_counts_all_fragments() -> None:
    """Small fragments add up, text counts in UTF-8 bytes, and the limit itself is allowed."""
    size = len(header(num_buffers=1)) + 2 + 2 + len('{"id":"a"}')
    fragments = (header(num_buffers=1), "{}", "{}", '{"id":"a"}', b"x" * 100)
    assert feed(*fragments, limit=size + 100)[-1] is not None
    with pytest.raises(ProtocolError) as caught:
        feed(*fragments, limit=size + 99)
    assert caught.value.close_code == 1009
    wide = json.dumps("é" * 50, ensure_ascii=False)
    with pytest.raises(ProtocolError) as caught:
        feed(HEADER, "{}", wide, limit=len(HEADER) + 2 + 102 - 1)
    assert caught.value.close_code == 1009
    assert feed(HEADER, "{}", wide, limit=len(HEADER) + 2 + 102)[-1] is not None


def test_a_lone_surrogate_is_json() -> None:
    """A browser escapes half a pair, which is legal JSON; the text arrives as it was sent."""
    message = feed(HEADER, "{}", '{"new":"\\ud83d"}')[-1]
    assert message is not None
    assert message.content == {"new": "\ud83d"}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.text() | st.binary() | _json.map(json.dumps) | st.just(HEADER) | st.just("{}"), max_size=12))
def test_arbitrary_fragments_never_escape(fragments: list[str | bytes]) -> None:
    """Whatever arrives, it is a message, part of one, or a protocol error."""
    assembler = Assembler(LIMIT)
    try:
        for fragment in fragments:
            assert isinstance(assembler.feed(fragment), Message | None)
    except ProtocolError as problem:
        assert problem.close_code in LEGAL_CODES
