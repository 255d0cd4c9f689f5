"""Sessions of early pages: claimed before the page, made after it, and what becomes of the page if they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import CodeHandler, FunctionHandler
from bokeh.document import Document
from bokeh.models.widgets import Div
from support.peers import in_loop

from aperture.errors import NotTheirs, PageRefused, SessionGone
from aperture.protocol.closing import INTERNAL_ERROR, TRY_AGAIN_LATER
from aperture.wire.session_key import session_key_of
from aperture.worker.collector import GarbageCollector
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.early import Framing, Making
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import LocalPlacement
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

KEY = session_key_of("/app", "s")
FAILS = "raise RuntimeError('not today')"


class Claims(LocalPlacement):
    """Notes which sessions are claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        self.held.add(session_id)
        return 1

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        self.held.discard(session_id)


class Shop:
    """A store with one app.

    Args:
        act: what the app does besides adding a root.
        code: of a script, in its place.
    """

    def __init__(self, act: Callable[[Document], object] = lambda document: None, *, code: str | None = None) -> None:
        self.runs = 0
        self.act = act
        handler: Any = FunctionHandler(self.run) if code is None else CodeHandler(source=code, filename="app.py")
        self.framing = Framing("/app", wanted=True)
        self.host = AppHost(
            "/app", Application(handler), logout_url=None, issue_token=lambda name: f"of {name}", framing=self.framing
        )
        self.claims = Claims()
        self.store = SessionStore({"/app": self.host}, self.claims, GarbageCollector(), unused_lifetime=0.0)

    def run(self, document: Document) -> None:
        self.runs += 1
        document.add_root(Div(text="root"))
        self.act(document)

    def page(self, user: str | None = None) -> Arrival:
        return Arrival(self.host, "s", lambda: Origin(None, {}, user=user), fresh=True, early=True, user=user)

    def socket(self, token: str = "of s") -> Arrival:
        return Arrival(self.host, "s", lambda: Origin(None, {}), token=token)

    async def begin(self) -> Making:
        making = await self.store.begin(self.page())
        assert isinstance(making, Making)
        return making


@in_loop
async def test_the_session_is_claimed_before_the_page_and_made_after_it() -> None:
    shop = Shop()
    making = await shop.begin()
    assert (shop.claims.held, shop.runs, making.held) == ({"s"}, 0, True)
    assert shop.store.has("s")
    assert shop.store.making(KEY) is making
    making.go()
    session = await shop.store.get_or_create(shop.socket())
    assert (shop.runs, session.id) == (1, "s")
    assert await shop.store.begin(shop.page()) is session


@in_loop
async def test_a_websocket_that_comes_first_lets_the_code_run() -> None:
    """Its page has loaded its scripts, whatever was seen of that here."""
    shop = Shop()
    await shop.begin()
    await shop.store.get_or_create(shop.socket())
    assert shop.runs == 1


@in_loop
async def test_the_code_runs_though_nobody_has_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its page could not be sent, perhaps."""
    monkeypatch.setattr("aperture.worker.session.early.LONGEST_HELD", 0.0)
    shop = Shop()
    await shop.begin()
    made = asyncio.Event()
    if shop.store.when_made(KEY, made.set):
        await made.wait()
    assert shop.runs == 1


@in_loop
async def test_a_page_of_another_user_is_refused_while_it_is_made() -> None:
    shop = Shop()
    making = await shop.store.begin(shop.page("alice"))
    with pytest.raises(NotTheirs):
        making.check_user("bob")
    making.check_user("alice")
    making.check_user(None)


@in_loop
async def test_what_refuses_a_claim_refuses_the_page() -> None:
    shop = Shop()
    await shop.store.close()
    with pytest.raises(SessionGone):
        await shop.store.begin(shop.page())
    assert shop.claims.held == set()


@in_loop
async def test_a_worker_that_stops_begins_no_code_of_a_page_it_has_sent() -> None:
    """It goes to the next worker: the websocket is asked to come back."""
    shop = Shop()
    await shop.begin()
    socket = asyncio.ensure_future(shop.store.get_or_create(shop.socket()))
    await shop.store.close()
    with pytest.raises(SessionGone):
        await socket
    assert (shop.runs, shop.claims.held) == (0, set())


@pytest.mark.parametrize("code", [None, FAILS])
@in_loop
async def test_an_app_that_fails_is_tried_again_by_the_page_and_not_by_the_websocket(
    code: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that raises and a script, whether the websocket waits or comes later; the traceback is in the log."""

    def fail(document: Document) -> None:
        raise RuntimeError("not today")

    shop = Shop(fail, code=code)
    making = await shop.begin()
    with pytest.raises(PageRefused) as waited:
        await shop.store.get_or_create(shop.socket())
    with pytest.raises(PageRefused) as late:
        await shop.store.get_or_create(shop.socket())
    assert (waited.value.close_code, late.value.close_code) == (INTERNAL_ERROR, INTERNAL_ERROR)
    assert "not today" not in str(late.value)
    assert "the app /app failed: session s" in caplog.text
    assert caplog.text.count("Traceback") == 1
    assert (shop.claims.held, shop.store.failed(KEY), len(shop.store)) == ({"s"}, True, 0)
    again = await shop.begin()
    assert again is not making
    again.go()
    with pytest.raises(PageRefused):
        await shop.store.get_or_create(shop.socket())
    assert shop.runs == (2 if code is None else 0)


@in_loop
async def test_a_failure_is_forgotten_when_nobody_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an unused session is, and with it the claim."""
    shop = Shop(code=FAILS)
    await shop.begin()
    with pytest.raises(PageRefused):
        await shop.store.get_or_create(shop.socket())
    await shop.store.discard_unused()
    assert (shop.claims.held, shop.store.failed(KEY), shop.store.ids()) == (set(), False, set())


@in_loop
async def test_an_ordinary_page_of_a_script_that_fails_shows_what_it_has_made() -> None:
    """As ever, also while there are early pages of others."""
    shop = Shop(code=f"from bokeh.io import curdoc; from bokeh.models import Div; curdoc().add_root(Div()); {FAILS}")
    session = await shop.store.get_or_create(shop.socket(""))
    assert len(session.document.roots) == 1


@in_loop
async def test_the_first_page_is_an_ordinary_one_and_a_template_makes_all_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plain = Document()
    framing = Framing("/app", wanted=True)
    assert not framing.possible
    framing.learn(plain)
    assert framing.possible
    own = Document()
    own.template_variables["name"] = "value"
    for document in (own, plain, own):
        framing.learn(document)
        assert not framing.possible
    assert caplog.text.count("no pages of /app are sent before their sessions") == 1
    unwanted = Framing("/app", wanted=False)
    unwanted.learn(plain)
    assert not unwanted.possible


@in_loop
async def test_a_page_that_does_not_suit_the_session_is_loaded_again() -> None:
    """Only that page: the ordinary one of the same session shows it."""
    shop = Shop(lambda document: setattr(document, "template", "{% extends base %}"))
    making = await shop.begin()
    making.frames += [("of s", lambda document: False), ("other", lambda document: True)]
    session = await shop.store.get_or_create(shop.socket())
    with pytest.raises(PageRefused) as refused:
        session.pages.check("of s")
    assert refused.value.close_code == TRY_AGAIN_LATER
    session.pages.check("other")
    session.pages.check("of the ordinary page")
    assert not shop.framing.possible


@in_loop
async def test_a_session_knows_the_tokens_of_pages_that_were_sent_before_it() -> None:
    """Or a page that pulls for the first time would be taken for one that comes back."""
    shop = Shop()
    making = await shop.begin()
    making.frames.append(("of s", lambda document: True))
    session: Session = await shop.store.get_or_create(shop.socket())
    session.pages.inherited = True
    assert not session.pages.is_return("of s")
    assert session.pages.is_return("of another worker")
