"""One app in one worker: how its sessions are built and taken down, and when its hooks are called."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import DirectoryHandler, FunctionHandler, ScriptHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.document import Document
from bokeh.models.widgets import Div
from support.node import APPS
from support.peers import in_loop
from tornado.ioloop import IOLoop

from aperture.errors import AppLoadError, AppQuit
from aperture.worker.session.context import AppSessionContext
from aperture.worker.session.host import AppHost, Origin

EXITING = APPS / "exiting.py"
ORIGIN = Origin(None, {"headers": {}, "made": "before"})


class Hooks(LifecycleHandler):
    """A handler whose hooks are given by name; those of sessions are coroutines."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__()
        for name, hook in hooks.items():
            setattr(self, name, hook)


def host_of(*handlers: Any, logout_url: str | None = None, clock: Callable[[], float] = time.monotonic) -> AppHost:
    app = Application(*handlers)
    return AppHost("/app", app, logout_url=logout_url, issue_token=lambda name: f"token of {name}", clock=clock)


@in_loop
async def test_the_hooks_run_around_the_apps_code() -> None:
    """`on_session_created` first, with the context that the app then sees; `on_session_destroyed` last."""
    order: list[str] = []

    async def created(context: Any) -> None:
        await asyncio.sleep(0)
        await context.with_locked_document(lambda document: order.append(f"created {context.id} {context.destroyed}"))
        context.mark = "mine"

    def app(document: Document) -> None:
        context: Any = document.session_context
        order.append(f"app {context.mark} {context.session}")

    async def destroyed(context: Any) -> None:
        order.append(f"destroyed {context.mark} {context.destroyed}")

    host = host_of(Hooks(on_session_created=created, on_session_destroyed=destroyed), FunctionHandler(app))
    session = await host.build("s", ORIGIN)
    host.publish(session)
    assert isinstance(session.context, AppSessionContext)
    assert session.context.session is session
    assert not session.context.destroyed
    assert list(host.sessions) == [session]
    assert list(host.server_context.sessions) == [session]
    await host.retire(session)
    assert order == ["created s False", "app mine None", "destroyed mine True"]
    assert list(host.sessions) == []


@in_loop
async def test_code_that_ends_everything_ends_its_own_session(caplog: pytest.LogCaptureFixture) -> None:
    """`sys.exit()` of a function, a script and a hook would end the worker, and every session in it."""

    async def leave(context: Any) -> None:
        sys.exit(3)

    host = host_of(Hooks(on_session_created=leave, on_session_destroyed=leave), FunctionHandler(lambda document: None))
    await host.retire(await host.build("s", ORIGIN))
    assert caplog.text.count("SystemExit: 3") == 2
    for handler in (FunctionHandler(lambda document: sys.exit(3)), ScriptHandler(filename=EXITING)):
        with pytest.raises(AppQuit, match="SystemExit"):
            await host_of(handler).build("s", ORIGIN)


@in_loop
async def test_failing_hooks_are_logged_and_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """As in Bokeh; the session is there, and gone afterwards."""

    async def fail(context: Any) -> None:
        raise ValueError(f"no good {context.destroyed}")

    host = host_of(Hooks(on_session_created=fail, on_session_destroyed=fail), FunctionHandler(lambda document: None))
    session = await host.build("a-secret-session-id", ORIGIN)
    await host.retire(session)
    assert "no good False" in caplog.text
    assert "no good True" in caplog.text
    assert "a-secret-session-id" not in caplog.text


@in_loop
async def test_a_failing_function_fails_the_session() -> None:
    """Nothing is left of it."""

    def app(document: Document) -> None:
        raise ValueError("no good")

    host = host_of(FunctionHandler(app))
    with pytest.raises(ValueError, match="no good"):
        await host.build("s", ORIGIN)
    assert list(host.sessions) == []


@in_loop
async def test_a_failing_script_leaves_an_empty_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in Bokeh, with the error in the log."""
    file = tmp_path / "app.py"
    file.write_text("raise ValueError('no good')\n")
    session = await host_of(ScriptHandler(filename=str(file))).build("s", ORIGIN)
    assert session.document.roots == []
    assert "no good" in caplog.text


@in_loop
async def test_an_app_sees_its_request_and_the_rest() -> None:
    """Through `curdoc().session_context`, from its first line on."""
    seen: dict[str, Any] = {}

    def app(document: Document) -> None:
        context: Any = document.session_context
        seen.update(
            payload=context.token_payload,
            request=context.request,
            logout=context.logout_url,
            id=context.id,
            doc=document,
        )
        document.add_root(Div(text="root"))

    host = host_of(FunctionHandler(app), logout_url="/prefix/logout")
    session = await host.build("s", ORIGIN)
    assert seen["payload"] == ORIGIN.payload
    assert seen["request"] is None
    assert seen["logout"] == "/prefix/logout"
    assert seen["id"] == "s"
    assert seen["doc"] is session.document
    assert session.token == "token of s"
    assert session.app == "/app"


@in_loop
async def test_load_and_unload_hooks_run() -> None:
    """With the server context; a failure is logged, and serving goes on."""
    order: list[object] = []
    host = host_of(
        Hooks(on_server_loaded=lambda context: order.append("loaded"), on_server_unloaded=lambda context: 1 / 0),
        FunctionHandler(lambda document: None),
    )
    host.load()
    host.unload()
    assert order == ["loaded"]


def test_a_failing_load_hook_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Bokeh goes on, and so do we."""
    host = host_of(Hooks(on_server_loaded=lambda context: 1 / 0), FunctionHandler(lambda document: None))
    host.load()
    assert "ZeroDivisionError" in caplog.text


def test_an_app_whose_package_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    """A directory app's `__init__.py` runs when the server has loaded; the error carries its traceback."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "main.py").write_text("")
    (folder / "__init__.py").write_text("import no_such_module_anywhere\n")
    host = host_of(DirectoryHandler(filename=str(folder)))
    with pytest.raises(AppLoadError) as caught:
        host.load()
    assert caught.value.path == "/app"
    assert "no_such_module_anywhere" in caught.value.detail


@in_loop
async def test_hooks_find_the_loop_and_the_app() -> None:
    """What Bokeh's contexts offer them."""
    host = host_of(FunctionHandler(lambda document: None))
    assert host.io_loop is IOLoop.current()
    assert host.server_context.application_context is host


@in_loop
async def test_a_session_is_unused_from_its_publication_on() -> None:
    """One that takes longer to rebuild than an unused one lives is still there when those who wait for it come."""
    now = 100.0
    host = host_of(FunctionHandler(lambda document: None), clock=lambda: now)
    session = await host.build("s", Origin(None, {}))
    now = 160.0
    assert session.milliseconds_since_last_unsubscribe == 60_000
    host.publish(session)
    assert session.milliseconds_since_last_unsubscribe == 0
