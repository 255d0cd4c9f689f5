"""Early pages in Chromium: the notice is there while the app's code runs, and the app, or why not, after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP

import pytest
from bokeh.embed import server_document
from playwright.sync_api import Browser
from support.browser import VIEWPORT, BrowserTabs, Tab
from support.fetch import fetch
from support.node import Node
from support.patience import wait_until
from support.site import site_at

from aperture.protocol.closing import INTERNAL_ERROR

NOTICE = "document.querySelector('aperture-notice')?.shadowRoot.textContent"

NUDGED = """() => {
  const shown = window.Bokeh?.documents[0];
  const [slider, seen] = ["slider", "seen"].map(name => shown?.get_model_by_name(name));
  if (slider == null || seen == null) return false;
  try { slider.value += 1; } catch {}
  return seen.text !== "0";
}"""
"""Moves the slider until the app has followed: what is changed while the page is between two workers may be lost."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Files that the app looks for."""

    folder: Path

    def variables(self) -> dict[str, str]:
        names = {name: str(self.folder / name) for name in ("EARLY_GATE", "EARLY_FAILS", "EARLY_TEMPLATE")}
        return {**names, "APP_RUNS": str(self.folder / "runs")}

    def on(self, name: str) -> None:
        (self.folder / name).touch()

    def off(self, name: str) -> None:
        (self.folder / name).unlink()

    def runs(self) -> list[str]:
        """The sessions that the app ran for, in order."""
        return [line.split()[1] for line in (self.folder / "runs").read_text().splitlines()]


@pytest.fixture
def switches(tmp_path: Path) -> Switches:
    return Switches(tmp_path)


@pytest.fixture
def node(switches: Switches) -> Iterator[Node]:
    """One worker without threads, which has had its first session."""
    options = ["--early-pages", "--allow-websocket-origin", "*"]
    with Node("early.py", options=options, env=switches.variables()) as node:
        yield node


@pytest.fixture
def loud(chromium: Browser) -> Iterator[BrowserTabs]:
    """Tabs that may log errors: BokehJS logs every connection that was cut."""
    context = chromium.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    yield BrowserTabs(context)
    context.close()


def arrive(tabs: BrowserTabs, url: str) -> Tab:
    """Open a page, and return when it shows the notice."""
    tab = tabs()
    tab.page.goto(url, wait_until="commit")
    tab.wait_for(f"() => ({NOTICE} ?? '').includes('Starting')")
    return tab


def arrive_behind_gate(tabs: BrowserTabs, node: Node, switches: Switches) -> Tab:
    """As `arrive`, where the app would be done before anybody has seen the notice."""
    switches.on("EARLY_GATE")
    tab = arrive(tabs, node.app_url("/early"))
    switches.off("EARLY_GATE")
    return tab


def says(tab: Tab, text: str) -> None:
    tab.wait_for(f"text => ({NOTICE} ?? '').includes(text)", text)


def move(tab: Tab) -> None:
    tab.drag_slider("slider", 0.5)
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('seen').text !== '0'")


def test_the_notice_is_there_before_the_session_and_the_app_after_it(
    node: Node, switches: Switches, tabs: BrowserTabs
) -> None:
    """All scripts are there by then, though one worker without threads sends them; each page runs the app once."""
    first = tabs(node.app_url("/early"))
    switches.on("EARLY_GATE")
    tab = arrive(tabs, node.app_url("/early"))
    tab.wait_for("() => window.Bokeh != null && document.readyState !== 'loading'")
    assert tab.page.title() == "Bokeh Application"
    switches.off("EARLY_GATE")
    tab.wait_idle()
    assert tab.page.title() == "Early at last"
    assert tab.page.evaluate(f"() => {NOTICE} == null")
    move(tab)
    assert switches.runs() == [first.session_id(), tab.session_id()]
    assert tab.picture("plot") == first.picture("plot")
    assert tab.box("plot") == first.box("plot")


def test_bokehjs_rehearses_while_the_app_starts_and_leaves_nothing(
    node: Node, switches: Switches, tabs: BrowserTabs
) -> None:
    """It draws a plot that nobody sees, so that it draws the app's in half the time; `Bokeh.documents` never has it."""
    tabs(node.app_url("/early"))
    switches.on("EARLY_GATE")
    tab = arrive(tabs, node.app_url("/early"))
    tab.wait_for("() => performance.getEntriesByName('aperture-rehearsed').length === 1")
    assert tab.page.evaluate("() => Bokeh.documents.filter(shown => shown.roots().length).length") == 0
    tab.wait_for("() => document.querySelector('body > [aria-hidden]') == null && Bokeh.index.roots.length === 0")
    switches.off("EARLY_GATE")
    tab.wait_idle()
    move(tab)
    assert tab.page.evaluate("() => Bokeh.documents.length") == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_page_has_its_scripts_before_its_code_keeps_the_event_loop(
    workers: int, switches: Switches, tabs: BrowserTabs
) -> None:
    """Without threads, and whichever workers the browser has asked for them: each time a browser without a cache."""
    options = ["--early-pages", "--num-procs", str(workers)]
    with Node("early.py", options=options, env=switches.variables()) as node:

        def came() -> bool:
            fetch(node.app_url("/early"), headers={"Sec-Fetch-Dest": "document"})
            return {session["pid"] for session in node.sessions()} == set(node.worker_pids())

        wait_until(came, 20, "some worker gets no page")
        switches.on("EARLY_GATE")
        tab = arrive(tabs, node.app_url("/early"))
        wait_until(lambda: tab.session_id() in switches.runs(), 20, "its code does not run")
        tab.wait_for("() => window.Bokeh?.Models.get('DataTable') != null")
        switches.off("EARLY_GATE")
        tab.wait_idle()
        move(tab)


def test_an_app_that_fails_says_so_and_is_tried_again(node: Node, switches: Switches, loud: BrowserTabs) -> None:
    """In plain words, with the traceback in the log alone."""
    loud(node.app_url("/early"))
    switches.on("EARLY_FAILS")
    tab = arrive_behind_gate(loud, node, switches)
    says(tab, "This app could not start")
    assert "no such file" not in tab.page.content() + tab.page.evaluate(NOTICE)
    node.wait_for_log("no such file: the app cannot work today")
    node.wait_for_log("the app /early failed")
    node.wait_for_log(rf"code {INTERNAL_ERROR} \(the app could not start\) after")
    assert len(switches.runs()) == 2
    switches.off("EARLY_FAILS")
    tab.page.locator("aperture-notice button").click()
    tab.wait_idle()
    move(tab)
    assert node.log().count("Traceback") == 1


def test_an_app_that_sets_a_template_later_goes_back_to_ordinary_pages(
    node: Node, switches: Switches, loud: BrowserTabs
) -> None:
    """The page that came too early loads itself again."""
    loud(node.app_url("/early"))
    switches.on("EARLY_TEMPLATE")
    tab = arrive_behind_gate(loud, node, switches)
    tab.page.locator("#own").wait_for()
    tab.wait_idle()
    move(tab)
    assert len(node.wait_for_log("no pages of /early are sent before their sessions: their sessions set a temp")) == 1
    other = loud(node.app_url("/early"))
    assert other.page.locator("#own").count() == 1


def test_a_page_comes_back_whose_worker_is_killed_while_its_app_starts(
    node: Node, switches: Switches, loud: BrowserTabs
) -> None:
    loud(node.app_url("/early"))
    switches.on("EARLY_GATE")
    tab = arrive(loud, node.app_url("/early"))
    tab.wait_for("() => window.__sockets.length > 0")
    (pid,) = node.worker_pids()
    node.kill(pid)
    switches.off("EARLY_GATE")
    tab.wait_idle()
    move(tab)


def test_a_page_goes_on_whose_workers_are_replaced_while_its_app_starts(switches: Switches, loud: BrowserTabs) -> None:
    """SIGHUP, with the app's code in a thread: the page has its session when the worker that makes it is gone."""
    options = ["--early-pages", "--num-threads", "2", "--durability", "async"]
    with Node("early.py", options=options, env=switches.variables()) as node:
        loud(node.app_url("/early"))
        switches.on("EARLY_GATE")
        tab = arrive(loud, node.app_url("/early"))
        tab.wait_for("() => window.__sockets.length > 0")
        wait_until(lambda: tab.session_id() in switches.runs(), 20, "its code does not run")
        (before,) = node.worker_pids()
        node.kill(node.pid, SIGHUP)
        wait_until(lambda: set(node.worker_pids()) - {before}, 60, "no worker takes its place")
        switches.off("EARLY_GATE")
        wait_until(lambda: before not in node.worker_pids(), 60, "the worker does not end")
        tab.wait_for(NUDGED, nominal=60)


@pytest.mark.parametrize("fails", [False, True])
def test_an_embedded_app_starts_in_its_place(
    node: Node, switches: Switches, loud: BrowserTabs, tmp_path: Path, fails: bool
) -> None:
    """By the script of an unmodified `server_document`, on a page of another origin."""
    loud(node.app_url("/early"))
    script = server_document(node.app_url("/early"))
    with site_at(tmp_path) as site:
        switches.on("EARLY_GATE")
        tab = arrive(loud, site.publish("mine", f"<h1>Mine</h1>{script}<p>Below</p>"))
        if fails:
            switches.on("EARLY_FAILS")
        switches.off("EARLY_GATE")
        if fails:
            says(tab, "This app could not start")
            return
        tab.wait_idle()
        move(tab)
        assert tab.page.title() != "Early at last"
        assert tab.page.locator("h1").inner_text() == "Mine"


@pytest.mark.parametrize("embedded", [False, True])
def test_a_page_that_lacks_a_script_says_so(node: Node, loud: BrowserTabs, tmp_path: Path, embedded: bool) -> None:
    """On a page of another origin, too, which is not told with what status a file was answered."""
    loud(node.app_url("/early"))
    tab = loud()
    tab.page.route("**/bokeh-tables.*", lambda route: route.fulfill(status=404))
    with site_at(tmp_path) as site:
        url = node.app_url("/early")
        tab.page.goto(site.publish("mine", server_document(url)) if embedded else url, wait_until="commit")
        says(tab, "This page could not be loaded")
