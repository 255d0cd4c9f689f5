"""Log lines: levels, forms, secrets that never show, and a log that cannot be written."""

from __future__ import annotations

import contextlib
import contextvars
import io
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture import log_sink
from aperture.config.options import LOG_LEVELS
from aperture.log import LOGGERS, TRACE, configure, level_number, lines_for
from aperture.log_lines import HumanLines, JsonLines, TemplateLines, redacted
from aperture.log_scope import PROCESS, REQUEST, SessionScope, request_id, session_scope
from aperture.log_sink import BURST, PATIENCE, PATIENCE_PERIOD, FileSink, FloodGate, LineHandler, StreamSink

SESSION = SessionScope("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH", "/sliders")
FORMS = [JsonLines(), HumanLines(), TemplateLines("%(asctime)s %(message)s")]


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def record(message: object = "hello", *args: object, name: str = "aperture.test", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, "file.py", 1, message, args, None)
    vars(made).update(extra)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonLines().format(made)
    assert line.isascii()
    assert "\n" not in line
    fields: dict[str, Any] = json.loads(line)
    return fields


# Levels


def test_every_level_of_the_command_line_has_a_number() -> None:
    """They go from the most talkative to the least."""
    numbers = [level_number(name) for name in LOG_LEVELS]
    assert numbers == sorted(numbers)
    assert numbers[0] == TRACE


def test_trace_is_the_level_that_bokeh_defines() -> None:
    """Bokeh logs at its own trace level, which is shown when ours is."""
    import bokeh.util.logconfig

    assert bokeh.util.logconfig.TRACE == TRACE


def test_both_loggers_get_the_level() -> None:
    """What Bokeh's models log belongs to the same log."""
    configure("error", "%(message)s")
    assert [logging.getLogger(name).level for name in LOGGERS] == [logging.ERROR, logging.ERROR]


# Forms


@pytest.mark.parametrize(
    ("template", "terminal", "expected"),
    [
        ("auto", True, HumanLines),
        ("auto", False, JsonLines),
        ("human", False, HumanLines),
        ("json", True, JsonLines),
        ("%(message)s", True, TemplateLines),
    ],
)
def test_who_looks_on_gets_lines_for_people(template: str, terminal: bool, expected: type) -> None:
    """Unless the form is named, and a format of Python's logging is still one."""
    assert type(lines_for(template, terminal=terminal, environment={})) is expected


def test_a_format_that_is_none_is_refused() -> None:
    """As Bokeh refuses it, when the log is set up and not with the first line."""
    with pytest.raises(ValueError):
        lines_for("%(message", terminal=False, environment={})


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(terminal: bool, environment: dict[str, str], coloured: bool) -> None:
    """`NO_COLOR` is respected, and a file never has any."""
    line = lines_for("human", terminal=terminal, environment=environment).format(record())
    assert ("\x1b[" in line) is coloured


def test_a_json_line_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in UTC, level, logger, process, node; and within a session's code the session, its app and the request."""
    monkeypatch.setattr(PROCESS, "name", "worker 3")
    monkeypatch.setattr(PROCESS, "node", "here-1")

    def inside() -> dict[str, Any]:
        REQUEST.set("r-1")
        with session_scope(SESSION):
            return as_json(record("at %d", 5, position={"x": object}))

    fields = contextvars.copy_context().run(inside)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("time"))
    assert fields.pop("position") == str({"x": object})
    assert fields == {
        "level": "info",
        "logger": "aperture.test",
        "message": "at 5",
        "pid": os.getpid(),
        "process": "worker 3",
        "node": "here-1",
        "session": "01234567",
        "app": "/sliders",
        "request": "r-1",
    }
    assert "session" not in as_json(record())


def test_a_line_for_people_says_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as there is something to say: the session with its app, the request, or nothing at all."""
    monkeypatch.setattr(PROCESS, "name", "worker 3")

    def said() -> str:
        return HumanLines().format(record("hello")).partition("worker 3")[2].strip()

    def inside() -> list[str]:
        seen = [said()]
        with session_scope(SESSION):
            seen.append(said())
            REQUEST.set("r-1")
            seen.append(said())
        return [*seen, said()]

    assert contextvars.Context().run(inside) == [
        "hello",
        "[01234567 /sliders] hello",
        "[01234567 /sliders #r-1] hello",
        "[#r-1] hello",
    ]


def test_an_exception_is_one_field_of_one_line() -> None:
    """However many lines its traceback has."""
    try:
        raise ValueError("first\nsecond")
    except ValueError as problem:
        made = record("failed")
        made.exc_info = (ValueError, problem, problem.__traceback__)
    fields = as_json(made)
    assert fields["exception"].endswith("ValueError: first\nsecond")
    assert fields["message"] == "failed"
    human = HumanLines().format(made)
    assert human.splitlines()[1].startswith("    Traceback")


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no text for this")

    __repr__ = __str__


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
@pytest.mark.parametrize(
    "made",
    [
        record("%d apples", "no number"),
        record("too few %s %s", 1),
        record("%s", Unshowable()),
        record(Unshowable()),
        record("extra", odd=Unshowable(), deep=[Unshowable()]),
        record("half a character \ud800"),
        record("level", levelno=17, levelname="Level 17"),
    ],
)
def test_no_record_is_too_odd_for_a_line(form: logging.Formatter, made: logging.LogRecord) -> None:
    """Whatever an app logs, there is a line for it, and nothing is raised."""
    assert form.format(made).encode("utf-8", "backslashreplace")


@given(st.text(max_size=60))
def test_a_stranger_cannot_write_a_line_of_his_own(text: str) -> None:
    """Line ends and control characters are escaped, or begin a continuation that is set in."""
    for form in FORMS:
        first, *further = form.format(record("path %s", text)).split("\n")
        assert "path" in first
        assert all(line.startswith("    ") for line in further)
        assert all(line.isprintable() for line in (first, *further))


# Secrets

secrets = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=16, max_size=60)
carriers = st.sampled_from(
    [
        "GET /app/ws?bokeh-token={}",
        "GET /app?a=1&bokeh-session-id={}&b=2 HTTP/1.1",
        "Cookie: theme=dark; user={}",
        "cookie: {}",
        "Set-Cookie: session={}; HttpOnly",
        "Authorization: Bearer {}",
        "{{'Authorization': 'Basic {}', 'Host': 'x'}}",
        "HTTPHeaders([('Sec-Websocket-Protocol', 'bokeh, {}')])",
        'headers={{"Cookie": "a=\\"{}\\""}}',
        "b'Cookie: a={}'",
        "Proxy-Authorization:\t{}",
        "Bokeh-Session-Id: {}",
        "redirect to /login?next=%2Fapp%3Fbokeh-session-id%3D{}",
    ]
)


@given(carriers, secrets)
def test_what_stands_behind_a_secrets_name_is_cut(carrier: str, secret: str) -> None:
    """Headers, cookies, arguments of queries, in every form that a library writes them in, message and traceback."""
    text = carrier.format(secret)
    made = record("500 %s", text, extra_of_an_app=text)
    made.exc_info = (ValueError, ValueError(text), None)
    for form in FORMS:
        assert secret not in form.format(made)


def test_tokens_and_session_ids_are_known_by_their_form() -> None:
    """Also where nothing before them says what they are."""
    token = "eyJzZXNzaW9uX2lkIjogImFiY2RlZmdoaWprbG1ub3AifQ.c2lnbmF0dXJlLW9mLWl0"
    assert redacted(f"problem with {token}!") == "problem with [cut]!"
    assert redacted(f"key aperture:x:{SESSION.session_id}:y") == "key aperture:x:01234567:y"
    for signature in ("s" * 43, "-" * 43, "s" * 42 + "-"):
        assert redacted(f"key x:{SESSION.session_id}.{signature}:y") == "key x:01234567:y"
    with session_scope(SessionScope("my-own-session-id", "/")):
        assert redacted("for my-own-session-id") == "for my-own-s"


def test_tornados_own_lines_lose_their_queries() -> None:
    """An app may have secrets of its own there."""
    line = as_json(record("404 GET /x?apikey=abc (127.0.0.1)", name="tornado.general"))
    assert line["message"] == "404 GET /x?[cut] (127.0.0.1)"


@pytest.mark.parametrize("given_id", ["a", "7f3-A.b:c_d", "x" * 64])
def test_a_sane_request_id_is_kept(given_id: str) -> None:
    """A proxy's log and ours speak of the same request."""
    assert request_id(given_id) == given_id


@pytest.mark.parametrize("given_id", [None, "", "x" * 65, "a b", "a\nb", 'a"b', "\u00e4", "-"])
def test_any_other_request_id_is_replaced(given_id: str | None) -> None:
    """What could be mistaken for something else in a log."""
    assert re.fullmatch("[0-9a-f]{16}", request_id(given_id))


# Writing


def emit(handler: LineHandler, *messages: str) -> None:
    for message in messages:
        handler.handle(record(message))


def handler_to(sink: log_sink.Sink) -> LineHandler:
    handler = LineHandler(sink)
    handler.setFormatter(TemplateLines("%(message)s"))
    return handler


class Scripted:
    """A sink that takes as many bytes at each write as its script says; None is an error."""

    def __init__(self, *script: int | None) -> None:
        self._script = list(script)
        self.taken = b""

    def write(self, line: bytes) -> int:
        size = self._script.pop(0) if self._script else len(line)
        if size is None:
            raise OSError(28, "no space left on device")
        self.taken += line[:size]
        return min(size, len(line))

    def wait(self, seconds: float) -> None:
        """There is never more room."""

    def close(self) -> None:
        """Nothing to close."""


def test_lost_lines_are_counted_and_told_of() -> None:
    """The disk is full for two lines: nothing is raised, and the next line says how many are missing."""
    sink = Scripted(None, None)
    emit(handler_to(sink), "one", "two", "three")
    assert sink.taken.decode() == "2 lines of the log were lost\nthree\n"


def test_a_line_that_was_cut_short_does_not_spoil_the_next() -> None:
    """What follows begins on a line of its own."""
    sink = Scripted(2, None)
    emit(handler_to(sink), "first", "second")
    assert sink.taken.decode().split("\n") == ["fi", "1 lines of the log were lost", "second", ""]


def test_a_reader_that_has_gone_is_borne() -> None:
    """EPIPE."""
    reading, writing = os.pipe()
    handler = handler_to(StreamSink(writing))
    os.close(reading)
    emit(handler, "one", "two")
    assert handler.lost == 2
    handler.close()
    os.close(writing)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_stands_still_holds_nobody_up(kind: str) -> None:
    """A thousand lines into a full pipe: it waits for the first that does not fit, and for none after that."""
    reading, writing = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    handler = handler_to(StreamSink(writing))
    emit(handler, *["x" * 3000] * 1000)
    assert handler.lost > 100
    drained = io.BytesIO()
    os.set_blocking(reading, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            drained.write(os.read(reading, 1 << 20))
    emit(handler, "alive")
    assert handler.lost == 0
    assert re.fullmatch(rb"\n?\d+ lines of the log were lost\nalive\n", os.read(reading, 1 << 20))
    handler.close()
    os.close(writing)
    os.close(reading)


class SlowReader:
    """A pipe whose reader takes 4 KB each 60 ms, in made-up time."""

    PIECE, PAUSE, ROOM = 4096, 0.06, 16 * 4096

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.taken = b""
        self._read = 0

    def write(self, line: bytes) -> int:
        self._read = min(len(self.taken), int(self.now / self.PAUSE) * self.PIECE)
        if len(self.taken) - self._read + len(line) > self.ROOM:
            return 0
        self.taken += line
        return len(line)

    def wait(self, seconds: float) -> None:
        waited = min(seconds, self.PAUSE - self.now % self.PAUSE + 1e-9)
        self.waits.append(waited)
        self.now += waited

    def close(self) -> None:
        """Nothing to close."""


def test_a_reader_that_is_always_behind_holds_nobody_up() -> None:
    """It gets the lines that it has the time for; what is waited for it is bounded over all lines, and none is missed
    without a word.
    """
    reader = SlowReader()
    handler = LineHandler(reader, clock=lambda: reader.now)
    handler.setFormatter(TemplateLines("%(message)s"))
    lines = 5000
    for _ in range(lines):
        reader.now += 0.002
        emit(handler, "x" * 350)
    assert reader.waits, "the reader was never behind"
    assert sum(reader.waits) <= PATIENCE + reader.now * PATIENCE / PATIENCE_PERIOD
    got = reader.taken.decode().splitlines()
    counts = [int(line.split()[0]) for line in got if line.endswith("lines of the log were lost")]
    assert len(got) - len(counts) + sum(counts) + handler.lost == lines
    assert len(reader.taken) > reader.now / reader.PAUSE * reader.PIECE / 2


def test_a_closed_standard_error_is_borne() -> None:
    """As daemons leave it."""
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    handler = handler_to(StreamSink(writing))
    emit(handler, "into nothing")
    assert handler.lost == 1


def test_a_rotated_file_is_opened_again(tmp_path: Path) -> None:
    """Moved away or removed: lines go to a new file of that name."""
    file = tmp_path / "node.log"
    handler = handler_to(FileSink(str(file)))
    emit(handler, "one")
    file.rename(tmp_path / "node.log.1")
    emit(handler, "two")
    file.unlink()
    emit(handler, "three")
    handler.close()
    assert (tmp_path / "node.log.1").read_text() == "one\n"
    assert file.read_text() == "three\n"


def test_without_a_folder_for_the_new_file_the_old_one_goes_on(tmp_path: Path) -> None:
    """A mistake in a rotation costs no line."""
    folder = tmp_path / "logs"
    folder.mkdir()
    handler = handler_to(FileSink(str(folder / "node.log")))
    folder.rename(tmp_path / "moved")
    emit(handler, "still here")
    handler.close()
    assert (tmp_path / "moved" / "node.log").read_text() == "still here\n"


# Floods


def flood(gate: FloodGate, count: int, at: float, name: str = "aperture.gateway.front.listener") -> list[str]:
    through = []
    for number in range(count):
        made = record("refused %d", number, name=name, created=at)
        if gate.filter(made):
            through.append(made.getMessage())
    return through


def test_a_flood_of_garbage_is_bounded_and_counted() -> None:
    """The first fifty of a kind are shown; the next that comes through says how many were not."""
    gate, now = FloodGate(), time.time()
    assert len(flood(gate, 500, now)) == BURST
    assert flood(gate, 1, now + 3) == ["refused 0 (and 450 more like this)"]
    assert len(flood(gate, 10, now + 3, name="aperture.gateway.front.dispatch")) == 10


def test_what_nobody_outside_can_cause_is_never_held_back() -> None:
    """An app's own lines, and those of requests, are all shown."""
    gate, now = FloodGate(), time.time()
    for name in ("bokeh.app", "aperture.worker.http.access_log", "myapp"):
        assert len(flood(gate, 500, now, name=name)) == 500


def test_what_viewers_cause_in_a_session_is_bounded_too() -> None:
    """Bad patches, here and through other workers, and what Bokeh says of them."""
    gate, now = FloodGate(), time.time()
    for name in ("aperture.worker.patch.inbound", "aperture.worker.relay.remote_messages", "bokeh.document.document"):
        assert len(flood(gate, 500, now, name=name)) == BURST


FORGED = "bad\n2026-01-01 00:00:00.000 INFO  worker 0   all is well\x1b[2J\r"


@pytest.mark.parametrize("form", [HumanLines(), TemplateLines("%(message)s")])
def test_no_exception_can_forge_a_line(form: logging.Formatter) -> None:
    """Its text may come of a viewer: what follows its first line is set in, and terminals get no orders."""
    try:
        raise ValueError(FORGED)
    except ValueError as problem:
        made = record("failed")
        made.exc_info = (ValueError, problem, problem.__traceback__)
    first, *others = form.format(made).split("\n")
    assert first.endswith("failed")
    assert others
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert "\\x1b[2J\\r" in others[-1]


def test_a_traceback_is_bounded() -> None:
    """Values of any size stand in what Bokeh raises; the beginning and the end are kept."""
    shown = ""
    for text in ("x" * 1_000_000, "line\n" * 200_000 + "the end"):
        try:
            raise ValueError(text)
        except ValueError as problem:
            made = record("failed")
            made.exc_info = (ValueError, problem, problem.__traceback__)
        shown = as_json(made)["exception"]
        assert len(shown) < 17_000
        assert shown.startswith("Traceback")
        assert "[cut]" in shown
    assert shown.endswith("the end")
