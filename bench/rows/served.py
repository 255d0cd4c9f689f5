"""What a change costs between the websocket's fragments and the document, and between the document and the frames.

Each side runs all that its server runs, but for the wire: the handler of a websocket, the session with its lock, and
one viewer that has pulled the document, whose socket accepts and drops everything. Stock Bokeh's time is without the
framing, which its websocket does after that point; ours is with it.

    apply-*     a viewer's message arrives: assembled, decoded, applied to the document under the lock and with
                `curdoc()` set, and answered with OK
    change-*    the server's own code changes a property under the lock, and the viewer is sent a patch
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import orjson
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.models.widgets import Slider
from bokeh.protocol import Protocol
from bokeh.protocol.receiver import Receiver
from bokeh.server.connection import ServerConnection
from bokeh.server.protocol_handler import ProtocolHandler
from bokeh.server.session import ServerSession
from bokeh.server.views.ws import WSHandler
from tornado.ioloop import IOLoop
from tornado.locks import Lock

from aperture.document.ids import IdSequence
from aperture.protocol.fragments import Assembler
from aperture.protocol.frames import FrameRun
from aperture.worker.collector import GarbageCollector
from aperture.worker.document.loading import new_document
from aperture.worker.http.access_log import Traffic
from aperture.worker.patch.viewer import Offer, Viewer
from aperture.worker.session.attachment import LocalAttachment
from aperture.worker.session.session import Session
from aperture.worker.session.slice import Slice
from aperture.worker.ws.handler import SessionSocket
from rows.contest import Contest, Work, columns, contend, joined, source_in, turns, widgets, with_sizes
from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP", "slider_with_a_callback"]

MAX_MESSAGE = 1 << 30
APP = "/bench"
PULL = ('{"msgid":"C1D5","msgtype":"PULL-DOC-REQ"}', "{}", "{}")

Fragments = tuple[str, str, str]
"""A message, as BokehJS writes it."""


class StockSocket(WSHandler):
    """Stock's websocket of a session with this document. It is not open, and what is written to it goes nowhere."""

    def __init__(self, doc: Document) -> None:  # without Tornado's, which wants a request
        protocol = Protocol()
        # Bokeh declares them as the None that they are before a socket opens.
        self.receiver = Receiver(protocol)  # type: ignore[assignment]
        self.handler = ProtocolHandler()  # type: ignore[assignment]
        self.write_lock = Lock()
        self.session = ServerSession(ID("bench"), doc, IOLoop.current())
        self.connection = ServerConnection(protocol, self, None, self.session)  # type: ignore[arg-type]
        self.said = ""
        self.take(PULL, "PULL-DOC-REPLY")

    def take(self, message: Fragments, answer: str) -> None:
        """A message has come; the last thing said then must be this.

        Raises:
            AssertionError: it was another.
        """
        for fragment in message:
            _finished(self.on_message(fragment))
        assert self.said == answer, self.said

    def lock_and_set(self, slider: Slider, value: float) -> None:
        # Bokeh's own annotation asks for a coroutine function; its code takes any.
        _finished(self.session.with_document_locked(setattr, slider, "value", value))  # type: ignore[arg-type]

    async def send_message(self, message: Any) -> None:
        self.said = message.msgtype
        await super().send_message(message)

    # Bokeh's own has this signature, too, which is not Tornado's.
    async def write_message(  # type: ignore[override]
        self, message: Any, binary: bool = False, locked: bool = True
    ) -> None:
        """No-op: there is no socket."""

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        raise AssertionError(reason)


class _Outbox:
    """Accepts ready frames and remembers the last."""

    def __init__(self) -> None:
        self.said = FrameRun(b"")

    def offer(self, run: FrameRun) -> Offer:
        self.said = run
        return Offer.WRITTEN

    def send(self, run: FrameRun) -> None:
        self.said = run

    def when_drained(self, act: Callable[[], None]) -> None:
        raise AssertionError("nothing waits")

    def resume(self) -> None:
        raise AssertionError("nothing was refused")

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)


class OurSocket(SessionSocket):
    """Ours, likewise; counted for the metrics, as by default."""

    def __init__(self, doc: Document) -> None:  # without Tornado's, which wants a request
        self.services: Any = SimpleNamespace(collector=GarbageCollector())
        self.session = Session("bench", doc, ids=IdSequence("bench"), issue_token=str, app=APP)
        self.sink = _Outbox()
        self.attachment = LocalAttachment(self.session, Viewer(self.sink, "token", inline_pulls=False))
        self._assembler = Assembler(MAX_MESSAGE)
        self._fragments = []
        self._received = Traffic()
        self._slice = Slice()
        self.take(PULL, b'"PULL-DOC-REPLY"')

    def take(self, message: Fragments, answer: bytes) -> None:
        """As `StockSocket.take`."""
        for fragment in message:
            work = self.on_message(fragment)
            if work is not None:
                cast("Coroutine[Any, Any, None]", work).close()  # it gives way to others; the message is done
        assert answer in self.sink.said.plain, self.sink.said.plain

    def lock_and_set(self, slider: Slider, value: float) -> None:
        # Bokeh's own annotation asks for a coroutine function; its code takes any.
        _finished(self.session.with_document_locked(setattr, slider, "value", value))

    def _acknowledge_now(self) -> None:
        """No-op: there is no socket."""

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        raise AssertionError(reason)


def _finished(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that waits for nothing to its end."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited for something")


# A change of the server's


def change_slider(models: int) -> Contest:
    """One slider of many goes back and forth."""
    stock_doc, (stock_slider, *_) = widgets(models)
    our_doc, (our_slider, *_) = widgets(models, new_document())
    stock, ours = StockSocket(stock_doc), OurSocket(our_doc)
    to_stock, to_ours = itertools.cycle((7, 8)), itertools.cycle((7, 8))
    stock.lock_and_set(stock_slider, 6)
    ours.lock_and_set(our_slider, 6)
    assert stock.said == "PATCH-DOC", stock.said
    assert b'"PATCH-DOC"' in ours.sink.said.plain
    change = {"kind": "ModelChanged", "model": {"id": our_slider.id}, "attr": "value", "new": 7}
    return Contest(
        lambda: stock.lock_and_set(stock_slider, next(to_stock)),
        lambda: ours.lock_and_set(our_slider, next(to_ours)),
        joined(orjson.dumps({"events": [change]})),
    )


# A message of a viewer's

Fill = Callable[[int, Document], list[dict[str, Any]]]
"""Puts so many models into an empty document; gives the events of messages that change it, each of a message."""


def slider_moves(models: int, doc: Document) -> list[dict[str, Any]]:
    """A slider goes back and forth."""
    _, (slider, *_) = widgets(models, doc)
    change = {"kind": "ModelChanged", "model": {"id": slider.id}, "attr": "value"}
    return [{**change, "new": value} for value in (7, 8)]


def stream_comes(models: int, doc: Document) -> list[dict[str, Any]]:
    """A browser streams 100 rows into a source that keeps 1,000."""
    _, source = source_in(models, doc)
    rep = {"type": "map", "entries": [[name, values] for name, values in columns(100).items()]}
    stream = {"kind": "ColumnsStreamed", "model": {"id": source.id}, "attr": "data", "data": rep, "rollover": 1000}
    return [stream]


def columns_come(models: int, doc: Document) -> list[dict[str, Any]]:
    """A browser replaces two columns of 1,000 rows."""
    _, source = source_in(models, doc)
    rep = {"type": "map", "entries": [[name, values] for name, values in columns(1000).items()]}
    return [{"kind": "ModelChanged", "model": {"id": source.id}, "attr": "data", "new": rep}]


def incoming(fill: Fill, models: int) -> Contest:
    """From fragments to the answer; the limit only parses them."""
    stock_doc, our_doc = Document(), new_document()
    stock_work = _stock_takes(stock_doc, fill(models, stock_doc))
    events = fill(models, our_doc)
    fragments = _endless(events)
    return Contest(stock_work, _ours_takes(our_doc, events), lambda: [orjson.loads(part) for part in next(fragments)])


def _endless(events: list[dict[str, Any]]) -> Iterator[Fragments]:
    header = '{"msgid":"C1D6","msgtype":"PATCH-DOC"}'
    return itertools.cycle([(header, "{}", json.dumps({"events": [event]})) for event in events])


def _stock_takes(doc: Document, events: list[dict[str, Any]]) -> Work:
    socket, fragments = StockSocket(doc), _endless(events)
    return lambda: socket.take(next(fragments), "OK")


def _ours_takes(doc: Document, events: list[dict[str, Any]]) -> Work:
    socket, fragments = OurSocket(doc), _endless(events)
    return lambda: socket.take(next(fragments), b'"OK"')


def slider_with_a_callback() -> Work:
    """One message for each call: a slider moves and its callback sets another's title. To trace a patch by."""
    doc = new_document()
    _, (slider, other, *_) = widgets(50, doc)
    slider.on_change("value", lambda attr, old, new: other.update(title=str(new)))
    change = {"kind": "ModelChanged", "model": {"id": slider.id}, "attr": "value"}
    return _ours_takes(doc, [{**change, "new": value} for value in (7, 8)])


FILLS: Mapping[str, tuple[str, Fill, Mapping[int, Target]]] = {
    "apply-slider": ("apply a slider's value", slider_moves, {5000: Target(faster=15)}),
    "apply-stream": ("apply a stream of 100 rows", stream_comes, {}),
    "apply-columns": ("apply two columns of 1,000", columns_come, {}),
}
APPLIED = {name: with_sizes(name, title, targets) for name, (title, _, targets) in FILLS.items()}
CHANGED = with_sizes("change-slider", "change a slider's value and send it", {}, sizes=(50, 5000))


def measure(plan: Plan) -> Iterator[Result]:
    yield from _contend(CHANGED, change_slider, plan)
    for name, rows in APPLIED.items():
        yield from _contend(rows, partial(incoming, FILLS[name][1]), plan)


def _contend(rows: Mapping[int, Row], make: Callable[[int], Contest], plan: Plan) -> list[Result]:
    wanted = {row: partial(make, models) for models, row in rows.items() if row.name in plan.rows}
    return contend(wanted, turns(plan.repeat))


GROUP = Group((*CHANGED.values(), *(row for rows in APPLIED.values() for row in rows.values())), measure)
