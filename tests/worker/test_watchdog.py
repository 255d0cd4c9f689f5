"""`aperture.worker.watchdog`: what is found, what is said of it, and what is left alone."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document, without_document_lock
from support.patience import seconds
from support.peers import in_loop

from aperture.metrics import ThreadTally
from aperture.worker.app_threads import ON_LOOP, AppThreads
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.session import Session
from aperture.worker.watchdog import Watchdog, line_of_app_code

SLOW = 1.0


class Scene:
    """An app, its watchdog, and looks at times that the test chooses."""

    def __init__(self, threads: AppThreads | None = None) -> None:
        self.host = AppHost(
            "/app", Application(), logout_url=None, issue_token=lambda name: name, code=threads or ON_LOOP
        )
        self.watchdog = Watchdog({"/app": self.host}, threads, slow=SLOW)
        self.watchdog.attach()

    async def session(self) -> Session:
        session = await self.host.build("0123456789", Origin(None, {}))
        self.host.publish(session)
        return session

    async def look(self, passed: float) -> None:
        """Look, from another thread, as the watchdog does."""
        await asyncio.to_thread(self.watchdog.look, passed)
        await asyncio.sleep(0)  # it may have left something to the loop

    def look_from_inside(self, passed: float) -> None:
        """Look while the loop does nothing else."""
        thread = threading.Thread(target=self.watchdog.look, args=(passed,))
        thread.start()
        thread.join(seconds(10))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@in_loop
async def test_a_quiet_worker_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Sessions that nothing happens in, and a loop that answers, are not reported."""
    scene = Scene()
    session = await scene.session()
    for _ in range(5):
        await session.with_document_locked(lambda: None)
        await scene.look(SLOW)
    assert messages(caplog) == []
    assert scene.host.tally.slow_callbacks == 0


@in_loop
async def test_a_loop_that_answers_at_once_is_not_slow(caplog: pytest.LogCaptureFixture) -> None:
    """Before the look that has asked it goes on."""
    scene = Scene()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", lambda answer: answer())
        for _ in range(5):
            scene.watchdog.look(SLOW)
    assert messages(caplog) == []


def _keep(look: Callable[[float], None], times: int = 4) -> None:
    for _ in range(times):
        look(SLOW / 2)


@in_loop
async def test_a_callback_on_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, with its session, its app and its line; the loop that it stops is not another finding."""
    scene = Scene()
    session = await scene.session()
    await session.with_document_locked(_keep, scene.look_from_inside)
    (said,) = messages(caplog)
    assert "session 01234567 of /app" in said
    assert f"{__file__}:" in said
    assert "in look_from_inside" in said
    assert scene.host.tally.slow_callbacks == 1


@in_loop
async def test_a_callback_without_the_lock_on_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """There is no hold, but the loop does not answer, and its stack says for whom."""
    scene = Scene()
    session = await scene.session()
    done = asyncio.Event()

    @without_document_lock
    def unlocked() -> None:
        _keep(scene.look_from_inside)
        done.set()

    session.document.add_next_tick_callback(unlocked)
    async with asyncio.timeout(seconds(10)):
        await done.wait()
    (said,) = messages(caplog)
    assert "session 01234567 of /app" in said


@in_loop
async def test_the_making_of_a_session_on_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """The app is known, the session not yet."""
    scene = Scene()
    made: list[Any] = []

    def fill(document: Document) -> None:
        _keep(scene.look_from_inside)
        made.append(document)

    scene.host.application.add(FunctionHandler(fill))
    await scene.session()
    (said,) = messages(caplog)
    assert "app code of /app has run" in said
    assert made


@in_loop
async def test_a_coroutine_that_awaits_with_the_lock(caplog: pytest.LogCaptureFixture) -> None:
    """No thread executes it, and others wait for it all the same: the line is the one that awaits."""
    scene = Scene()
    session = await scene.session()
    go_on = asyncio.Event()

    async def wait_for_it() -> None:
        await go_on.wait()

    kept = asyncio.ensure_future(session.with_document_locked(wait_for_it))
    await asyncio.sleep(0)
    for _ in range(4):
        await scene.look(SLOW / 2)
    go_on.set()
    await kept
    (said,) = messages(caplog)
    assert "in wait_for_it" in said
    assert scene.host.tally.slow_callbacks == 1


@in_loop
async def test_a_callback_in_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    """The line is that thread's, and the loop is free."""
    threads = AppThreads(1, ThreadTally())
    scene = Scene(threads)
    session = await scene.session()
    go_on, arrived = threading.Condition(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_it() -> None:
        with go_on:
            loop.call_soon_threadsafe(arrived.set)
            assert go_on.wait(seconds(10))

    kept = asyncio.ensure_future(session.with_document_locked(wait_for_it))
    async with asyncio.timeout(seconds(10)):
        await arrived.wait()
    with go_on:  # free once the thread waits, which is in another file
        pass
    for _ in range(4):
        await scene.look(SLOW / 2)
    with go_on:
        go_on.notify()
    await kept
    threads.close()
    (said,) = messages(caplog)
    assert "in wait_for_it" in said
    assert "threading.py" in said
    assert scene.host.tally.slow_callbacks == 1


@in_loop
async def test_time_in_which_the_process_stood_still_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    """A machine that slept is no slow callback: each look counts little, however late it comes."""
    scene = Scene()
    session = await scene.session()

    def keep() -> None:
        for _ in range(2):
            scene.look_from_inside(SLOW / 4)

    await session.with_document_locked(keep)
    assert messages(caplog) == []


def test_a_stack_without_app_code() -> None:
    """Then the innermost line has to do."""
    assert line_of_app_code(iter(())) == "nowhere"
