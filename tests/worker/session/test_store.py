"""The sessions of a worker: created once, found again, discarded when unused, and announced as they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.application import SessionContext
from bokeh.application.handlers import FunctionHandler, Handler
from bokeh.document import Document
from bokeh.models.widgets import Div
from support.peers import Peer, in_loop

from aperture.errors import SessionGone
from aperture.worker.collector import GarbageCollector
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import LocalPlacement, LostClaim
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

ORIGIN = Origin(None, {})
LIFETIME = 15.0


class Log(LocalPlacement):
    """A placement that notes its calls, among what else happened."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[str] = []
        self.gate: asyncio.Future[None] | None = None
        self.lost: list[LostClaim] = []
        """What another worker has claimed, while this one was stopped."""

    def steady(self) -> bool:
        return not self.lost

    async def renew(self) -> list[LostClaim]:
        lost, self.lost = self.lost, []
        return lost

    def forget(self, app: str, session_id: str, epoch: int) -> None:
        self.entries.append(f"forget {session_id} at {epoch}")

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        self.entries.append(f"claim {session_id}")
        if self.gate is not None:
            await self.gate
        return 1

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        self.entries.append(f"release {session_id}" if last else f"release {session_id} of {app}")


class CountingCollector(GarbageCollector):
    """Counts its calls."""

    discarded = 0

    def session_discarded(self) -> None:
        self.discarded += 1


class SlowHooks(Handler):
    """An app's `on_session_destroyed`, which may wait for an event."""

    destroyed: asyncio.Event | None = None

    def modify_document(self, doc: Document) -> None:
        """No-op."""

    async def on_session_destroyed(self, session_context: SessionContext) -> None:
        if self.destroyed is not None:
            await self.destroyed.wait()


class Shop:
    """A store with one or two apps.

    Args:
        act: what the app does besides adding a root.
    """

    def __init__(self, act: Callable[[Document], object] = lambda document: None, urls: tuple[str, ...] = ("/app",)):
        self.log = Log()
        self.collector = CountingCollector()

        def app(document: Document) -> None:
            self.log.entries.append("app")
            document.add_root(Div(text="root"))
            act(document)

        self.hooks = SlowHooks()
        self.hosts = {
            url: AppHost(url, Application(FunctionHandler(app), self.hooks), logout_url=None, issue_token=str)
            for url in urls
        }
        self.host = self.hosts[urls[0]]
        self.store = SessionStore(self.hosts, self.log, self.collector, unused_lifetime=LIFETIME)

    async def get(self, session_id: str = "s", url: str = "/app") -> Session:
        return await self.store.get_or_create(Arrival(self.hosts[url], session_id, lambda: ORIGIN))


def age(session: Session, by: float = LIFETIME + 1) -> None:
    session.expiry.last_used -= by


@in_loop
async def test_the_app_runs_once_however_many_ask_at_once() -> None:
    """Fifty requests for one session share one run and get the same session."""
    shop = Shop()
    found = await asyncio.gather(*(shop.get() for _ in range(50)))
    assert len(set(map(id, found))) == 1
    assert shop.log.entries == ["claim s", "app"]
    assert await shop.get() is found[0]


@in_loop
async def test_the_session_is_claimed_before_its_code_runs() -> None:
    """And counts as here from then on, so that requests for it stay here."""
    shop = Shop()
    shop.log.gate = asyncio.get_running_loop().create_future()
    asking = asyncio.create_task(shop.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert shop.log.entries == ["claim s"]
    assert shop.store.has("s")
    assert shop.store.ids() == {"s"}
    assert shop.store.find(shop.host, "s") is None
    shop.log.gate.set_result(None)
    assert await asking is shop.store.find(shop.host, "s")
    assert len(shop.store) == 1
    assert [session.id for session in shop.store] == ["s"]


@in_loop
async def test_the_code_does_not_run_of_a_session_that_another_worker_has_claimed_meanwhile() -> None:
    """It waits for its page, while this process is stopped for longer than its lease; the claim is left as it is."""
    shop = Shop()
    await shop.store.begin(Arrival(shop.host, "s", lambda: ORIGIN, early=True))
    shop.log.lost = [LostClaim("/app", "s", 1)]
    with pytest.raises(SessionGone, match="another worker"):
        await shop.get()
    assert shop.log.entries == ["claim s", "forget s at 1", "release s"]
    await shop.get()
    assert shop.log.entries[3:] == ["claim s", "app"]


@in_loop
async def test_a_failing_app_leaves_nothing_and_is_tried_again() -> None:
    """All who asked get its error, and what they left behind counts as garbage; the next request runs it anew."""
    failing = [True]

    def act(document: Document) -> None:
        if failing[0]:
            raise ValueError("no good")

    shop = Shop(act)
    answers = await asyncio.gather(*(shop.get() for _ in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["no good"] * 3
    assert shop.log.entries == ["claim s", "app", "release s"]
    assert not shop.store.has("s")
    assert shop.collector.discarded == 1
    failing[0] = False
    await shop.get()
    assert shop.log.entries[3:] == ["claim s", "app"]


@in_loop
async def test_a_new_attempt_is_not_forgotten_with_the_failed_one() -> None:
    """Who asks right after the failure starts a new attempt, and everybody after that shares it."""
    failing = [True]

    def act(document: Document) -> None:
        if failing.pop():
            raise ValueError("no good")
        failing.append(False)

    failing.insert(0, False)
    shop = Shop(act)
    shop.log.gate = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(shop.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    shop.log.gate.set_result(None)
    # This one asks in the same turn of the loop in which the first attempt fails, the others in the next.
    second = asyncio.create_task(shop.get())
    shop.log.gate = asyncio.get_running_loop().create_future()
    with pytest.raises(ValueError, match="no good"):
        await first
    others = [asyncio.create_task(shop.get()) for _ in range(3)]
    await asyncio.sleep(0)
    shop.log.gate.set_result(None)
    sessions = await asyncio.gather(second, *others)
    assert len(set(map(id, sessions))) == 1
    assert shop.log.entries.count("app") == 2


@in_loop
async def test_who_asked_first_may_leave() -> None:
    """A page that is closed while its app's hooks run does not cost the others their session."""
    shop = Shop()
    shop.log.gate = asyncio.get_running_loop().create_future()
    first, second = asyncio.create_task(shop.get()), asyncio.create_task(shop.get())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shop.log.gate.set_result(None)
    assert (await second).id == "s"
    assert shop.log.entries == ["claim s", "app"]


@in_loop
async def test_unused_sessions_are_discarded_after_their_lifetime() -> None:
    """Not before, and not while a viewer is connected."""
    shop = Shop()
    session = await shop.get()
    await shop.store.discard_unused()
    assert shop.store.has("s")
    peer = Peer(session)
    age(session)
    await shop.store.discard_unused()
    assert shop.store.has("s")
    session.detach(peer.viewer)
    await shop.store.discard_unused()
    assert shop.store.has("s")
    age(session)
    await shop.store.discard_unused()
    assert not shop.store.has("s")
    assert session.destroyed
    assert shop.log.entries == ["claim s", "app", "release s"]
    assert shop.collector.discarded == 1


@in_loop
async def test_a_blocked_session_outlives_its_lifetime() -> None:
    """Until it is unblocked."""
    shop = Shop()
    session = await shop.get()
    age(session)
    session.block_expiration()
    await shop.store.discard_unused()
    assert shop.store.has("s")
    session.unblock_expiration()
    await shop.store.discard_unused()
    assert not shop.store.has("s")


@in_loop
async def test_a_session_may_ask_to_go_early() -> None:
    """At the next check after the last connection is gone."""
    shop = Shop()
    session = await shop.get()
    peer = Peer(session)
    session.request_expiration()
    await shop.store.discard_unused()
    assert shop.store.has("s")
    session.detach(peer.viewer)
    await shop.store.discard_unused()
    assert not shop.store.has("s")


@in_loop
async def test_the_app_hears_of_the_end() -> None:
    """`on_session_destroyed` callbacks see the context, and one that fails does not stop the rest."""
    heard: list[object] = []

    def fail(context: Any) -> None:
        heard.append(context.destroyed)
        raise ValueError("no good")

    def note(session_context: Any) -> None:
        heard.append(session_context.destroyed)

    def act(document: Document) -> None:
        document.callbacks.session_destroyed_callbacks |= {fail, note}

    shop = Shop(act)
    age(await shop.get())
    await shop.store.discard_unused()
    assert heard == [True, True]
    assert not shop.store.has("s")


@in_loop
async def test_an_id_is_released_when_no_app_has_it() -> None:
    """Two apps may use one session id."""
    shop = Shop(urls=("/app", "/other"))
    one, other = await shop.get(), await shop.get(url="/other")
    assert one is not other
    age(one)
    await shop.store.discard_unused()
    assert "release s" not in shop.log.entries
    assert shop.store.has("s")
    age(other)
    await shop.store.discard_unused()
    assert shop.log.entries[-1] == "release s"


@in_loop
async def test_nobody_gets_in_while_the_worker_ends() -> None:
    """New sessions are refused, also those whose code has not run yet; those there are end with their hooks."""
    heard: list[str] = []
    shop = Shop(lambda document: document.on_session_destroyed(lambda session_context: heard.append("end")))
    await shop.get("a")
    shop.log.gate = asyncio.get_running_loop().create_future()
    making = asyncio.create_task(shop.get("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ending = asyncio.create_task(shop.store.discard_all())
    await asyncio.sleep(0)
    with pytest.raises(SessionGone):
        await shop.get("c")
    shop.log.gate.set_result(None)
    await ending
    with pytest.raises(SessionGone):
        await making
    assert heard == ["end"]
    assert len(shop.store) == 0


@in_loop
async def test_sessions_that_wait_for_their_turn_are_not_made_once_the_worker_ends() -> None:
    """They would be changed after everything has been written down; who asked is sent to another worker."""
    shop = Shop()
    asking = [asyncio.ensure_future(shop.get(name)) for name in "abc"]
    while "app" not in shop.log.entries:
        await asyncio.sleep(0)
    await shop.store.close()
    made = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in made] == [Session, SessionGone, SessionGone]
    assert shop.log.entries.count("app") == len(shop.store) == 1
    assert {"release b", "release c"} <= set(shop.log.entries)


@in_loop
async def test_a_session_asked_for_while_its_namesake_ends_is_a_new_one() -> None:
    """The old one's release does not take the new one's claim away."""
    shop = Shop()
    hook = asyncio.Event()
    shop.hooks.destroyed = hook
    old = await shop.get()
    age(old)
    ending = asyncio.create_task(shop.store.discard_unused())
    await asyncio.sleep(0)
    assert old.destroyed
    new = await shop.get()
    hook.set()
    await ending
    assert shop.store.find(shop.host, "s") is new
    assert not new.destroyed
    assert shop.log.entries == ["claim s", "app", "claim s", "app"]


@in_loop
async def test_sessions_are_described() -> None:
    """With whole ids, for the gateway; `connections` counts over all apps."""
    shop = Shop(urls=("/app", "/other"))
    session = await shop.get("a")
    await shop.get("b", "/other")
    Peer(session)
    rows = [(info.id, info.app, info.epoch, info.connections, info.edges) for info in shop.store.describe()]
    assert rows == [("a", "/app", 1, 1, 0), ("b", "/other", 1, 0, 0)]
    assert all(info.age_seconds >= 0 for info in shop.store.describe())
    assert shop.store.connections == 1


@in_loop
async def test_a_session_whose_page_was_cut_off_is_kept_for_a_minute() -> None:
    """Its page tries to come back; one that was closed does not."""
    shop = Shop()
    lost, closed = await shop.get("lost"), await shop.get("closed")
    for session, was_lost in ((lost, True), (closed, False)):
        peer = Peer(session)
        session.detach(peer.viewer, lost=was_lost)
        age(session)
    await shop.store.discard_unused()
    assert shop.store.find(shop.host, "lost") is lost
    assert shop.store.find(shop.host, "closed") is None
    lost.expiry.last_lost -= 61
    await shop.store.discard_unused()
    assert shop.store.find(shop.host, "lost") is None


@in_loop
async def test_one_page_that_closes_does_not_end_the_wait_for_another() -> None:
    """Of two pages of one session one is cut off, then the other is closed."""
    shop = Shop()
    session = await shop.get("s")
    cut_off, closed = Peer(session), Peer(session)
    session.detach(cut_off.viewer, lost=True)
    session.detach(closed.viewer)
    age(session)
    await shop.store.discard_unused()
    assert shop.store.find(shop.host, "s") is session
