"""Sessions that are made ahead: of which apps, for whom, and what becomes of those that are not taken."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler, ScriptHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.document import Document
from bokeh.models.widgets import Div
from support.peers import in_loop
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from aperture.worker.collector import GarbageCollector
from aperture.worker.document.snapshot import fingerprint
from aperture.worker.session.ahead import REASONS, AheadPayload, AskedTooEarly, Questions, ahead_origin
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import LocalPlacement
from aperture.worker.session.session import Session
from aperture.worker.session.session_request import SessionRequest
from aperture.worker.session.store import SessionStore
from aperture.worker.session.warm import RESERVED_TIME, WarmSessions

LIFETIME = 60.0


class Hooks(LifecycleHandler):
    """Notes the sessions that hooks are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.go = asyncio.Event()
        """What is being made waits for it."""
        self.go.set()

    async def on_session_created(self, session_context: Any) -> None:
        self.notes.append(f"created {session_context.id}")
        await self.go.wait()

    async def on_session_destroyed(self, session_context: Any) -> None:
        self.notes.append(f"destroyed {session_context.id}")


class Shop:
    """A store with one app and what is made ahead of it.

    Args:
        act: what the app does besides adding a root.
    """

    def __init__(self, act: Callable[[Document], object] = lambda document: None, *, count_ready: int = 1) -> None:
        self.act = act
        self.runs = 0
        self.now = 0.0
        self.idle = True
        self.pages: list[Document] = []
        """Documents whose pages have been prepared."""
        self.hooks = Hooks()
        self.host = self.host_of(FunctionHandler(lambda document: self.run(document)))
        self.warm = self.warm_of(self.host, count_ready)
        self.store = SessionStore(
            {"/app": self.host}, LocalPlacement(), GarbageCollector(), unused_lifetime=9, warm=self.warm
        )

    def host_of(self, *handlers: Any) -> AppHost:
        return AppHost("/app", Application(self.hooks, *handlers), logout_url=None, issue_token=str)

    def warm_of(self, host: AppHost, count_ready: int = 1) -> WarmSessions:
        names = map("warm-{}".format, count(1))
        return WarmSessions(
            {"/app": host},
            lambda: next(names),
            count=count_ready,
            lifetime=LIFETIME,
            idle=lambda: self.idle,
            clock=lambda: self.now,
            prepare_page=self.pages.append,
        )

    def run(self, document: Document) -> None:
        self.runs += 1
        document.add_root(Div(text="root"))
        self.act(document)

    async def begin_to_make(self) -> asyncio.Task[None]:
        """Begin to make a session ahead, which waits for `hooks.go`."""
        self.hooks.go.clear()
        tending = asyncio.create_task(self.warm.tend())
        while not self.hooks.notes:
            await asyncio.sleep(0)
        return tending

    async def visit(self) -> Session:
        """A page of a new visitor."""
        session_id = self.warm.reserve("/app") or "cold"
        return await self.store.get_or_create(Arrival(self.host, session_id, visitor, fresh=True))


def visitor() -> Origin:
    start = RequestStartLine("GET", "/app", "HTTP/1.1")
    request = HTTPServerRequest(start_line=start, headers=HTTPHeaders(Host="visited"))
    request.remote_ip = "192.0.2.7"
    seen = SessionRequest(request, arguments={}, cookies={"name": "mine"}, headers={"Host": "visited"})
    return Origin(seen, {"headers": {"Host": "visited"}, "cookies": {"name": "mine"}, "arguments": {}}, user="me")


@in_loop
async def test_a_visitor_gets_the_session_that_was_made_ahead() -> None:
    """Without a run of the app's code; it is claimed and counted as a session only then, and made once."""
    shop = Shop()
    await shop.warm.tend()
    await shop.warm.tend()
    assert (shop.runs, shop.warm.ready("/app"), len(shop.store)) == (1, 1, 0)
    session = await shop.visit()
    assert (session.id, shop.runs, shop.warm.ready("/app"), len(shop.store)) == ("warm-1", 1, 0, 1)
    assert (await shop.visit()).id == "cold"
    assert shop.host.tally.warm_taken == 1
    await shop.warm.tend()
    assert shop.warm.ready("/app") == shop.host.tally.warm_ready == 1


@in_loop
async def test_its_app_sees_the_visitors_request_from_then_on() -> None:
    """Also by what it has kept of the one that had not come yet."""
    kept: list[Any] = []

    def keep(document: Document) -> None:
        context: Any = document.session_context
        kept.extend((context.request, context.token_payload))
        assert context.request.arguments == {}
        assert context.token_payload.get("arguments") == {}
        assert context.request.method == "GET"

    shop = Shop(keep)
    await shop.warm.tend()
    session = await shop.visit()
    request, payload = kept[:2]
    context: Any = session.context
    assert context.request.cookies == request.cookies == {"name": "mine"}
    assert request.remote_ip == "192.0.2.7"
    assert payload["headers"] == context.token_payload["headers"] == {"Host": "visited"}
    assert set(payload) == {"headers", "cookies", "arguments"}


def _swallowing(document: Document) -> None:
    context: Any = document.session_context
    try:
        context.request.headers["Host"]
    except BaseException:
        return


QUESTIONS: dict[str, Callable[[Any], object]] = {
    "cookies": lambda context: context.request.cookies.get("name"),
    "headers": lambda context: context.request.headers["Host"],
    "address": lambda context: context.request.remote_ip,
    "token payload": lambda context: dict(context.token_payload.items()),
    "other": lambda context: context.request.version,
}


@pytest.mark.parametrize("reason", sorted(QUESTIONS))
@in_loop
async def test_an_app_that_asks_for_its_visitor_is_given_up(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """After one try, with one line; its sessions are made as ever, and see what they ask for."""
    caplog.set_level(logging.INFO, "aperture.worker.session.warm")
    shop = Shop(lambda document: QUESTIONS[reason](document.session_context))
    for _ in range(5):
        await shop.warm.tend()
        shop.now += LIFETIME
    assert (shop.runs, shop.warm.ready("/app")) == (1, 0)
    assert shop.host.tally.warm_given_up == {reason: 1}
    assert [record.message for record in caplog.records] == [
        f"no session of /app is made ahead: its code asks for the visitor's {reason}"
    ]
    assert reason in REASONS
    session = await shop.visit()
    assert (session.id, shop.runs) == ("cold", 2)


@pytest.mark.parametrize(
    "look",
    [
        *(dict, len, repr, json.dumps, reversed, lambda payload: payload | {}, lambda payload: {} | payload),
        *(lambda payload: payload == {}, lambda payload: {**payload}, lambda payload: payload.copy()),
        *(lambda payload: payload.pop("user", None), lambda payload: payload.setdefault("user", "none")),
    ],
)
def test_every_look_at_the_payload_is_a_question(look: Callable[[Any], object]) -> None:
    """Also one that reaches past a dict's items; when the visitor has come, it is a dict like any other."""
    questions = Questions()
    payload = ahead_origin(questions).payload
    with pytest.raises(AskedTooEarly):
        look(payload)
    assert questions.asked == "token payload"
    assert isinstance(payload, AheadPayload)
    payload.fulfil({"user": "ada"})
    expected = {"arguments": {}, "user": "ada"}
    assert payload.copy() == payload == expected
    look(payload)


@in_loop
async def test_an_app_that_handles_every_exception_is_given_up_too() -> None:
    """What it has made of the missing answer is shown to no one, and its end hooks are called."""
    shop = Shop(_swallowing)
    await shop.warm.tend()
    assert shop.warm.ready("/app") == 0
    assert shop.hooks.notes == ["created warm-1", "destroyed warm-1"]


@in_loop
async def test_no_callback_runs_before_there_is_a_visitor() -> None:
    """They begin with the session."""
    ran: list[str] = []
    shop = Shop(lambda document: document.add_next_tick_callback(lambda: ran.append("tick")))
    await shop.warm.tend()
    await asyncio.sleep(0.01)
    assert ran == []
    await shop.visit()
    for _ in range(10):
        await asyncio.sleep(0)
    assert ran == ["tick"]


@in_loop
async def test_what_is_too_old_is_made_anew() -> None:
    """And is never given away; its end hooks are called."""
    shop = Shop()
    await shop.warm.tend()
    shop.now = LIFETIME + 1
    assert (await shop.visit()).id == "cold"
    await shop.warm.tend()
    shop.now += RESERVED_TIME + 1
    await shop.warm.tend()
    assert "destroyed warm-1" in shop.hooks.notes
    assert (await shop.visit()).id == "warm-2"


@in_loop
async def test_a_page_that_was_left_takes_nothing_with_it() -> None:
    """What it had reserved is discarded."""
    shop = Shop()
    await shop.warm.tend()
    assert shop.warm.reserve("/app") == "warm-1"
    shop.now = RESERVED_TIME + 1
    await shop.warm.tend()
    assert shop.hooks.notes[:2] == ["created warm-1", "destroyed warm-1"]
    assert await shop.warm.take("warm-1", visitor()) is None


@pytest.mark.parametrize("tended", [False, True])
@in_loop
async def test_a_session_whose_code_asks_later_is_for_nobody(tended: bool) -> None:
    """A task or a thread that the code has started has stopped at the question: its visitor would miss it."""
    shop, stopped, tasks = Shop(count_ready=2), asyncio.Event(), list[asyncio.Task[None]]()

    async def ask(document: Document) -> None:
        context: Any = document.session_context
        try:
            context.request.cookies.get("name")
        finally:
            stopped.set()

    shop.act = lambda document: tasks.append(asyncio.create_task(ask(document))) if shop.runs == 1 else None
    await shop.warm.tend()
    await stopped.wait()
    with pytest.raises(AskedTooEarly):
        await tasks[0]
    if tended:
        await shop.warm.tend()
        assert shop.hooks.notes == ["created warm-1", "destroyed warm-1"]
        assert shop.host.tally.warm_given_up == {"cookies": 1}
    assert (await shop.visit()).id == "cold"
    assert shop.host.tally.warm_ready == 0


@in_loop
async def test_sessions_are_made_ahead_in_idle_time_only() -> None:
    """While visitors would notice, none is made."""
    shop = Shop(count_ready=3)
    shop.idle = False
    await shop.warm.tend()
    assert shop.runs == 0
    shop.idle = True
    await shop.warm.tend()
    assert shop.runs == 1, "one at a time"


@in_loop
async def test_a_page_waits_for_the_session_that_is_being_made() -> None:
    """And not behind it, for another run of the code; one page does, the next has its session made."""
    shop = Shop()
    tending = await shop.begin_to_make()
    visiting = asyncio.create_task(shop.visit())
    await asyncio.sleep(0)
    assert not shop.warm.is_reserved("warm-1"), "a page of it may be sent early"
    assert shop.warm.reserve("/app") is None
    shop.hooks.go.set()
    session = await visiting
    await tending
    assert (session.id, shop.runs, shop.warm.ready("/app"), shop.host.tally.warm_taken) == ("warm-1", 1, 0, 1)


@in_loop
async def test_a_page_that_waits_gets_a_session_also_if_its_app_is_given_up() -> None:
    """The code runs once more, for the visitor."""
    seen: list[Any] = []

    def ask(document: Any) -> None:
        seen.append(dict(document.session_context.request.cookies))

    shop = Shop(ask)
    tending = await shop.begin_to_make()
    visiting = asyncio.create_task(shop.visit())
    await asyncio.sleep(0)
    shop.hooks.go.set()
    session = await visiting
    await tending
    assert (session.id, shop.runs, seen) == ("warm-1", 2, [{"name": "mine"}])


@in_loop
async def test_a_page_that_waits_when_the_worker_stops_gets_its_session() -> None:
    """It is discarded only if nobody waits for it."""
    for waits in (True, False):
        shop = Shop()
        tending = await shop.begin_to_make()
        visiting = asyncio.create_task(shop.visit()) if waits else None
        await asyncio.sleep(0)
        closing = asyncio.create_task(shop.warm.close())
        await asyncio.sleep(0)
        assert not closing.done(), "what is being made comes to its end"
        shop.hooks.go.set()
        await tending
        await closing
        if visiting is not None:
            assert (await visiting).id == "warm-1"
        assert shop.hooks.notes == ["created warm-1"] + ["destroyed warm-1"] * (not waits)
        assert shop.runs == 1


@in_loop
async def test_what_a_page_needs_is_prepared_with_its_session() -> None:
    """The page, and the fingerprint that recovery stores: a visitor need not wait for either."""
    shop = Shop()
    await shop.warm.tend()
    [document] = shop.pages
    session_id = shop.warm.reserve("/app")
    assert session_id is not None
    prepared = await shop.warm.take(session_id, visitor())
    assert prepared is not None
    assert prepared.document is document
    assert prepared.made == fingerprint(document)


@in_loop
async def test_no_app_keeps_another_from_its_sessions() -> None:
    """Also one that comes first, and whose sessions are taken as fast as they are made."""
    hosts = {
        url: AppHost(url, Application(FunctionHandler(lambda document: None)), logout_url=None, issue_token=str)
        for url in ("/popular", "/other", "/third")
    }
    names = map("warm-{}".format, count(1))
    warm = WarmSessions(hosts, lambda: next(names), count=2, lifetime=LIFETIME, idle=lambda: True, clock=lambda: 0.0)
    for _ in range(9):
        await warm.tend()
        warm.reserve("/popular")
    assert [warm.ready(url) for url in ("/other", "/third")] == [2, 2]


@pytest.mark.parametrize("kind", ["function", "script"])
@in_loop
async def test_an_app_that_fails_is_tried_again_later(
    kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """With one line each time, and not while its page would fail as well."""
    shop = Shop(lambda document: 1 / 0)
    if kind == "script":
        (tmp_path / "app.py").write_text("1 / 0")
        host = shop.host_of(ScriptHandler(filename=tmp_path / "app.py"))
        shop.host, shop.warm = host, shop.warm_of(host)
    for _ in range(3):
        await shop.warm.tend()
    lines = [record for record in caplog.records if record.name == "aperture.worker.session.warm"]
    assert len(lines) == 1
    assert shop.warm.ready("/app") == 0
    shop.now = LIFETIME
    await shop.warm.tend()
    assert shop.host.tally.warm_given_up == {"error": 2}


@in_loop
async def test_at_the_end_what_nobody_took_is_discarded() -> None:
    """With its hooks, also where a page had reserved it; and nothing is made any more."""
    shop = Shop()
    await shop.warm.tend()
    assert shop.warm.reserve("/app") == "warm-1"
    await shop.warm.tend()
    await shop.warm.close()
    await shop.warm.tend()
    assert shop.hooks.notes == ["created warm-1", "created warm-2", "destroyed warm-2", "destroyed warm-1"]
    assert shop.warm.reserve("/app") is None
