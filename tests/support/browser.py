"""A real Chromium for tests: tabs that know BokehJS, and that fail the test on any error in the console.

`tests/browser/conftest.py` makes these fixtures known to pytest. Models are read through `Bokeh.documents`, and widgets
are operated with the mouse, where a person would.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, sync_playwright
from support.patience import seconds, wait_until

__all__ = ["VIEWPORT", "BrowserTabs", "Tab", "chromium", "move_and_see", "profile", "tabs", "trusting_tabs"]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWPORT = {"width": 1200, "height": 900}

_VIEW = "(name => Bokeh.index.get_one(Bokeh.documents[0].get_model_by_name(name)))"


class Tab:
    """One page of the browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.set_default_timeout(seconds(30) * 1000)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("response", self._answered)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            # A resource that cannot be loaded is named in the place alone.
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    # -- loading

    def open(self, url: str) -> Tab:
        """Load a page, and wait until BokehJS has drawn all of it."""
        self.page.goto(url)
        return self.wait_idle()

    def wait_idle(self) -> Tab:
        """Wait until BokehJS has a document and has drawn it."""
        self.page.wait_for_function("() => window.Bokeh?.documents?.length > 0 && Bokeh.documents[0].is_idle")
        return self

    def session_id(self) -> str:
        """The session that this page shows, as the page's token names it."""
        found: str = self.page.evaluate(
            """() => {
              const [item] = [...document.scripts].map(s => s.textContent.match(/"token":"([^".]+)/)).filter(Boolean);
              return JSON.parse(atob(item[1].replace(/-/g, "+").replace(/_/g, "/"))).session_id;
            }"""
        )
        return found

    # -- reading models

    def value(self, name: str, attr: str) -> Any:
        """A property of a named model, as BokehJS has it now."""
        return self.page.evaluate("([name, attr]) => Bokeh.documents[0].get_model_by_name(name)[attr]", [name, attr])

    def column(self, name: str, column: str) -> list[Any]:
        """A column of a named data source, as a list."""
        found: list[Any] = self.page.evaluate(
            "([name, column]) => Array.from(Bokeh.documents[0].get_model_by_name(name).data[column])", [name, column]
        )
        return found

    def wait_for(self, script: str, argument: Any = None, nominal: float = 20) -> None:
        """Wait until a JavaScript function of one argument returns something true."""
        self.page.wait_for_function(script, arg=argument, timeout=seconds(nominal) * 1000)

    def wait_for_value(self, name: str, attr: str, value: Any) -> None:
        """Wait until a property of a named model has this value."""
        self.wait_for(
            "([name, attr, value]) => Bokeh.documents[0].get_model_by_name(name)?.[attr] === value", [name, attr, value]
        )

    def wait_for_column(self, name: str, column: str, different_from: list[Any]) -> list[Any]:
        """Wait until a column of a named data source is no longer this, and return what it is."""
        self.wait_for(
            """([name, column, old]) => {
              const now = Array.from(Bokeh.documents[0].get_model_by_name(name).data[column]);
              return now.length !== old.length || now.some((value, i) => value !== old[i]);
            }""",
            [name, column, different_from],
        )
        return self.column(name, column)

    # -- seeing

    def box(self, name: str) -> dict[str, float]:
        """Where the view of a named model is on the page."""
        found: dict[str, float] = self.page.evaluate(
            f"""name => {{
              const {{left, top, width, height}} = {_VIEW}(name).el.getBoundingClientRect();
              return {{x: left + scrollX, y: top + scrollY, width, height}};
            }}""",
            name,
        )
        return found

    def picture(self, name: str) -> bytes:
        """What the view of a named model looks like now, as PNG."""
        return self.page.screenshot(clip=self.box(name), full_page=True)  # type: ignore[arg-type]

    def wait_for_redraw(self, name: str, before: bytes) -> None:
        """Wait until the view of a named model looks different; BokehJS draws a while after the data arrive."""
        wait_until(lambda: self.picture(name) != before, 20, f"{name} still looks the same")

    # -- acting

    def drag_slider(self, name: str, fraction: float) -> None:
        """Take a named slider's handle with the mouse and drag it to a fraction of the track."""
        handle, track = (
            self.page.evaluate(
                f"""([name, part]) => {{
                  const {{left, top, width, height}} =
                    {_VIEW}(name).shadow_el.querySelector(part).getBoundingClientRect();
                  return {{x: left, y: top, width, height}};
                }}""",
                [name, part],
            )
            for part in (".noUi-handle", ".noUi-base")
        )
        mouse = self.page.mouse
        middle = handle["y"] + handle["height"] / 2
        mouse.move(handle["x"] + handle["width"] / 2, middle)
        mouse.down()
        mouse.move(track["x"] + track["width"] * fraction, middle, steps=8)
        mouse.up()

    def drag_over(self, name: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with the mouse over a plot, between two points given as fractions of its box."""
        box = self.box(name)
        (x0, y0), (x1, y1) = ((box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (start, end))
        mouse = self.page.mouse
        mouse.move(x0, y0)
        mouse.down()
        mouse.move(x1, y1, steps=12)
        mouse.up()

    def mark_document(self) -> None:
        """Remember the present roots: the document that a page pulls when it reconnects has others."""
        self.page.evaluate("() => { Bokeh.documents[0].roots()[0].__before = true; }")

    def wait_back(self) -> Tab:
        """Wait until the page has pulled its document again, if its websocket was cut since the mark, and drawn it."""
        self.wait_for(
            """() => {
              const [root] = Bokeh.documents[0].roots();
              const cut = window.__sockets.length > 1 || window.__sockets[0].readyState !== WebSocket.OPEN;
              return root != null && !(cut && root.__before);
            }""",
            nominal=60,
        )
        self.wait_for("() => Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('plot'))?.is_idle === true")
        return self

    def drop_websocket(self) -> None:
        """Cut this page's websocket as a failing network would."""
        self.page.evaluate("() => { for (const socket of window.__sockets) socket.close(); }")

    def overlook(self, *urls: str) -> None:
        """Forget that resources from these places, which are not here, could not be loaded."""
        self.problems = [found for found in self.problems if not any(f"({url}" in found for url in urls)]

    def assert_quiet(self) -> None:
        """Fail on anything that the page complained about."""
        assert self.problems == [], "\n".join(self.problems)


class BrowserTabs:
    """Tabs of one fresh profile. Each is checked for complaints at the end of the test."""

    def __init__(self, context: BrowserContext) -> None:
        self._context = context
        self._tabs: list[Tab] = []
        # BokehJS keeps its socket to itself; a test that drops it must have seen it being made.
        context.add_init_script(
            """window.__sockets = [];
            window.WebSocket = class extends WebSocket {
              constructor(...args) { super(...args); window.__sockets.push(this); }
            };"""
        )

    def __call__(self, url: str | None = None) -> Tab:
        """Open a new tab, on a page if one is given."""
        tab = Tab(self._context.new_page())
        self._tabs.append(tab)
        return tab.open(url) if url is not None else tab

    def add_cookie(self, **cookie: Any) -> None:
        """Give the profile a cookie, as Playwright describes one: name, value, url..."""
        self._context.add_cookies([cookie])  # type: ignore[list-item]

    def assert_quiet(self) -> None:
        for tab in self._tabs:
            tab.assert_quiet()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One Chromium for the tests of a module; it ends with it, because it keeps an event loop running meanwhile."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[BrowserTabs]:
    """Opens tabs in a fresh profile; the test fails if any of them logged an error."""
    with profile(chromium) as opened:
        yield opened


@contextmanager
def profile(chromium: Browser, **settings: Any) -> Iterator[BrowserTabs]:
    """A fresh profile, whose tabs must log no error until the block ends.

    Args:
        settings: of Playwright's `Browser.new_context`.
    """
    context = chromium.new_context(viewport=VIEWPORT, **settings)  # type: ignore[arg-type]
    opened = BrowserTabs(context)
    yield opened
    opened.assert_quiet()
    context.close()


@pytest.fixture
def trusting_tabs(chromium: Browser) -> Iterator[BrowserTabs]:
    """As `tabs`, of somebody who takes a self-signed certificate."""
    with profile(chromium, ignore_https_errors=True) as opened:
        yield opened


_FOLLOWS = """() => {
  const [{value}, {data}] = ["amplitude", "wave"].map(name => Bokeh.documents[0].get_model_by_name(name));
  const y = Array.from(data.y);
  return Math.abs(Math.max(...y) - Math.min(...y) - 2 * Math.abs(value)) < 0.05;
}"""
"""Whether the wave is as high as the slider says, by less than half a step of it."""


def move_and_see(tab: Tab, fraction: float) -> float:
    """Move a slider with the mouse, wait until the wave follows, and say what the slider shows."""
    tab.page.bring_to_front()  # or Chromium takes its time to draw
    before = tab.column("wave", "y")
    tab.drag_slider("amplitude", fraction)
    tab.wait_for_column("wave", "y", before)
    tab.wait_for(_FOLLOWS)  # the slider says several values on its way, and the wave follows each
    value: float = tab.value("amplitude", "value")
    return value
