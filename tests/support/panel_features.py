"""Features of Panel, each as an app, what a person does with it in a browser, and what is there after its worker died.

Apps are in `support/apps/panels`. What they show is looked for in the shadow roots, which Playwright's locators enter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.browser import Tab
from support.node import APPS, Node, StockNode
from support.patience import seconds

__all__ = ["FEATURES", "FILES", "FOR_ALL", "PANELS", "READY", "Feature", "PanelNode", "StockPanelNode", "see"]

PANELS = APPS / "panels"

READY = [
    {
        "kind": "MessageSent",
        "msg_type": "bokeh_event",
        "msg_data": {"type": "event", "name": "document_ready", "values": {"type": "map"}},
    }
]
"""The patch by which a page says that it is there."""


class StockPanelNode(StockNode):
    """Stock `panel serve` on a free port."""

    name = "panel serve"
    command = ("-m", "panel", "serve")


class PanelNode(Node):
    """`aperture panel` on a free port."""

    name = "aperture panel"
    command = ("-m", "aperture", "panel")


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature.

    Args:
        app: a file in `support/apps/panels`.
        use: what a person does on a new page.
        again: what is there when the page is back after its worker died, and what it answers.
        query: of the page's address.
        elsewhere: what Panel's pages of it load from other servers, also on Panel's own; there is no network here.
        afresh: whether its session starts afresh when its worker dies.
    """

    app: str
    use: Callable[[Tab], None]
    again: Callable[[Tab], None]
    query: str = ""
    elsewhere: tuple[str, ...] = ()
    afresh: bool = False

    @property
    def file(self) -> Path:
        return PANELS / self.app

    @property
    def route(self) -> str:
        return f"/{self.file.stem}{self.query}"


def see(tab: Tab, *texts: str, nominal: float = 20) -> None:
    """Wait until each of these is on the page."""
    for text in texts:
        tab.page.get_by_text(text, exact=True).first.wait_for(timeout=seconds(nominal) * 1000)


def press(tab: Tab, name: str = "press me") -> None:
    tab.page.get_by_role("button", name=name, exact=True).first.click()


def slide(tab: Tab) -> None:
    """One step to the right."""
    tab.page.locator(".noUi-handle").first.press("ArrowRight")


def _basics(tab: Tab) -> None:
    see(tab, "it is 1 now", "pressed 0 times", "hello nobody")
    slide(tab)
    see(tab, "it is 2 now")
    press(tab)
    see(tab, "pressed 1 times")
    tab.page.locator("input[type=text]").first.fill("you")
    tab.page.locator("input[type=text]").first.press("Enter")
    see(tab, "hello you")


def _basics_again(tab: Tab) -> None:
    see(tab, "it is 2 now", "pressed 1 times", "hello you")
    slide(tab)
    see(tab, "it is 3 now", "hello you")
    press(tab)
    see(tab, "pressed 2 times")


def _onload(tab: Tab) -> None:
    see(tab, "the page is ready")
    press(tab)
    see(tab, "pressed 1 times")


def _onload_again(tab: Tab) -> None:
    see(tab, "pressed 1 times")
    press(tab)
    see(tab, "pressed 2 times")


def _deferred(tab: Tab) -> None:
    see(tab, "deferred 1")
    slide(tab)
    see(tab, "deferred 2")


def _deferred_again(tab: Tab) -> None:
    see(tab, "deferred 2")
    slide(tab)
    see(tab, "deferred 3")


def _location(tab: Tab) -> None:
    see(tab, "asked for ?n=4", "it is 4 now")
    slide(tab)
    see(tab, "it is 5 now")
    tab.wait_for("() => location.search === '?n=5'")


def _location_again(tab: Tab) -> None:
    see(tab, "asked for ?n=4", "it is 5 now")
    slide(tab)
    # BokehJS makes no new view of a root without an element: the address stays, as after any reconnect.
    see(tab, "it is 6 now")


def _request(tab: Tab) -> None:
    see(tab, "cookie sweet", "arguments {'a': ['1', '2']}", "browser True")
    press(tab)
    see(tab, "still sweet ['a']")


def _request_again(tab: Tab) -> None:
    see(tab, "cookie sweet", "arguments {'a': ['1', '2']}", "browser True", "still sweet ['a']")
    press(tab)
    see(tab, "still sweet ['a']")


def _busy(tab: Tab) -> None:
    see(tab, "idle")
    press(tab)
    see(tab, "done 1, busy True, was seen True")


def _busy_again(tab: Tab) -> None:
    see(tab, "done 1, busy True, was seen True")
    press(tab)
    see(tab, "done 2, busy True, was seen True")


def _generating(tab: Tab) -> None:
    see(tab, "step 2 of 2")
    slide(tab)
    see(tab, "step 3 of 3")


def _generating_again(tab: Tab) -> None:
    see(tab, "step 3 of 3")
    slide(tab)
    see(tab, "step 4 of 4")


_TICKS = """least => { const texts = Bokeh.documents[0]._all_models.values();
  for (const {text} of texts) { const found = /tick (\\d+)/.exec(text ?? ""); if (found) return found[1] > least; } }"""


def _periodic(tab: Tab) -> None:
    tab.wait_for(_TICKS, 3)


def _periodic_again(tab: Tab) -> None:
    tab.wait_for(_TICKS, 8)


def _cached(tab: Tab) -> None:
    see(tab, "cached forty-two, computed at most once True", "squared 9 9")
    slide(tab)
    see(tab, "squared 16 16")


def _cached_again(tab: Tab) -> None:
    see(tab, "squared 16 16")
    slide(tab)
    see(tab, "squared 25 25")


def _executing(tab: Tab) -> None:
    press(tab, "execute")
    see(tab, "executed 1")
    press(tab, "with lock")
    see(tab, "with lock 1")
    press(tab, "unlocked")
    see(tab, "halfway 1")  # for a second
    see(tab, "unlocked 1")


def _executing_again(tab: Tab) -> None:
    see(tab, "unlocked 1")
    press(tab, "execute")
    see(tab, "executed 2")
    press(tab, "unlocked")
    see(tab, "halfway 2")
    see(tab, "unlocked 2")


def _holding(tab: Tab) -> None:
    see(tab, *(f"text {number} ready" for number in range(5)))
    press(tab)
    see(tab, *(f"text {number} new 1" for number in range(5)))


def _holding_again(tab: Tab) -> None:
    see(tab, *(f"text {number} new 1" for number in range(5)))
    press(tab)
    see(tab, *(f"text {number} new 2" for number in range(5)))


def _notifying(tab: Tab) -> None:
    press(tab)
    see(tab, "told 1 times")


def _notifying_again(tab: Tab) -> None:
    press(tab)
    see(tab, "told 2 times")


def _templated(tab: Tab) -> None:
    see(tab, "templated app", "it is 1 now")
    slide(tab)
    see(tab, "it is 2 now")
    press(tab, "open the modal")
    see(tab, "inside of the modal")


def _templated_again(tab: Tab) -> None:
    tab.page.evaluate("() => document.querySelector('.pnx-dialog-close, .pn-modalclose')?.click()")
    see(tab, "it is 2 now")
    slide(tab)
    see(tab, "it is 3 now")


def _bootstrapped(tab: Tab) -> None:
    see(tab, "bootstrapped app", "it is 1 now")
    slide(tab)
    see(tab, "it is 2 now")


def _again_at_two(tab: Tab) -> None:
    see(tab, "it is 2 now")
    slide(tab)
    see(tab, "it is 3 now")


def _files(tab: Tab) -> None:
    content = b"y" * 3_000_000
    tab.page.locator("input[type=file]").first.set_input_files(
        {"name": "y.txt", "mimeType": "text/plain", "buffer": content}
    )
    see(tab, "uploaded 3000000 bytes")
    _download(tab, 3)


def _files_again(tab: Tab) -> None:
    see(tab, "uploaded 3000000 bytes")
    _download(tab, 3)


def _download(tab: Tab, size: int) -> None:
    with tab.page.expect_download(timeout=seconds(20) * 1000) as download:
        tab.page.get_by_text("Download many.txt").first.click()
    assert Path(download.value.path()).read_bytes() == b"x" * size


def _tabulating(tab: Tab) -> None:
    see(tab, "one", "row 0")
    press(tab, "stream")
    see(tab, "more 1")
    _edit(tab, "two", "zwei")
    see(tab, "edited 1 to zwei")
    tab.page.locator(".tabulator-page[data-page='2']").first.click()
    see(tab, "row 5")


def _tabulating_again(tab: Tab) -> None:
    see(tab, "more 1", "zwei", "edited 1 to zwei", "row 5")
    press(tab, "stream")
    see(tab, "more 2", "more 1")
    tab.page.locator(".tabulator-page[data-page='3']").first.click()
    see(tab, "row 10")


def _edit(tab: Tab, before: str, after: str) -> None:
    tab.page.get_by_text(before, exact=True).first.dblclick()
    field = tab.page.locator(".tabulator-editing input").first
    field.fill(after)
    field.press("Enter")


def _plotting(tab: Tab) -> None:
    tab.page.locator(".vega-embed canvas, .vega-embed svg").first.wait_for()
    see(tab, "chart 2")
    slide(tab)
    see(tab, "chart 3")


def _plotting_again(tab: Tab) -> None:
    tab.page.locator(".vega-embed canvas, .vega-embed svg").first.wait_for()
    see(tab, "chart 3")
    slide(tab)
    see(tab, "chart 4")


def _components(tab: Tab) -> None:
    see(tab, "counted 0", "python has 0")
    tab.page.locator(".counter").first.click()
    see(tab, "counted 1", "python has 1")
    _type(tab, "something")
    see(tab, "python read something")
    colour = "element => getComputedStyle(element).color"
    assert tab.page.get_by_text("styled", exact=True).first.evaluate(colour) == "rgb(1, 2, 3)"


def _components_again(tab: Tab) -> None:
    see(tab, "counted 1", "python has 1", "python read something")
    tab.page.locator(".counter").first.click()
    see(tab, "counted 2", "python has 2")
    _type(tab, "else")
    see(tab, "python read else")


def _type(tab: Tab, text: str) -> None:
    field = tab.page.locator("input.typed").first
    field.fill(text)
    field.press("Tab")


def _chatting(tab: Tab) -> None:
    _say(tab, "hello")
    see(tab, "you said hello end")


def _chatting_again(tab: Tab) -> None:
    see(tab, "hello", "you said hello end")
    _say(tab, "bye")
    see(tab, "you said bye end", "you said hello end")


def _say(tab: Tab, text: str) -> None:
    field = tab.page.locator("textarea").first
    field.fill(text)
    field.press("Enter")


def _tabbed(tab: Tab) -> None:
    see(tab, "label first label")
    tab.page.get_by_text("second", exact=True).first.click()
    see(tab, "the second tab")


def _tabbed_again(tab: Tab) -> None:
    see(tab, "the second tab")
    tab.page.get_by_text("parameters", exact=True).first.click()
    see(tab, "label first label")


def _failing(tab: Tab) -> None:
    see(tab, "nothing failed")
    press(tab)
    see(tab, "failed with number 1")


def _failing_again(tab: Tab) -> None:
    see(tab, "failed with number 1")
    press(tab)
    see(tab, "failed with number 2")


def _written(tab: Tab) -> None:
    see(tab, "it is 1 now", "Between two blocks of code.")
    slide(tab)
    see(tab, "it is 2 now")


def _noted(tab: Tab) -> None:
    see(tab, "it is 1 now")
    slide(tab)
    see(tab, "it is 2 now")


def _material(tab: Tab) -> None:
    see(tab, "material app", "pressed 0 times")
    press(tab)
    see(tab, "pressed 1 times")


def _material_again(tab: Tab) -> None:
    see(tab, "pressed 1 times")
    press(tab)
    see(tab, "pressed 2 times")


def _folder(tab: Tab) -> None:
    see(tab, "it is 1 now")
    tab.wait_for("() => document.readyState === 'complete'")
    dot = tab.page.get_by_alt_text("dot").first
    dot.wait_for()
    assert dot.evaluate("image => image.naturalWidth") > 0
    slide(tab)
    see(tab, "it is 2 now")


_TITLES = """wanted => { const models = [...Bokeh.documents[0]._all_models.values()];
  const titles = models.filter(model => model.type === "Title").map(model => model.text);
  return wanted.every(title => titles.includes(title)); }"""


def _titled(tab: Tab, *titles: str) -> None:
    """Wait until plots of Bokeh's have these titles, which are drawn on their canvas."""
    tab.wait_for(_TITLES, list(titles))


def _holoviewing(tab: Tab) -> None:
    _shows_curves(tab, 2)
    slide(tab)
    _shows_curves(tab, 3)


def _holoviewing_again(tab: Tab) -> None:
    _shows_curves(tab, 3)
    slide(tab)
    _shows_curves(tab, 4)


def _shows_curves(tab: Tab, power: int) -> None:
    see(tab, f"power is {power}")
    _titled(tab, f"curve {power}", f"line {power}")


def _figures(tab: Tab) -> None:
    _shows_figures(tab, 2)
    slide(tab)
    _shows_figures(tab, 3)


def _figures_again(tab: Tab) -> None:
    _shows_figures(tab, 3)
    slide(tab)
    _shows_figures(tab, 4)


def _shows_figures(tab: Tab, count: int) -> None:
    see(tab, f"count is {count}", f"bars {count}", f"chart {count}")
    tab.page.get_by_alt_text(f"picture {count}").first.wait_for()


_DRAWN = """([type, wanted]) => {
  for (const model of Bokeh.documents[0]._all_models.values()) {
    const shown = model.type === type ? JSON.stringify(model.attributes.layers ?? model.attributes.data?.dims) : null;
    if (shown?.includes(wanted)) return Bokeh.index.find_one(model).shadow_el.querySelector("canvas") != null;
  } }"""


def _drawn(tab: Tab, count: int, type_: str, wanted: str) -> None:
    """Wait until a model of this type has what is wanted in its data, and a canvas."""
    see(tab, f"count is {count}")
    tab.wait_for(_DRAWN, [type_, wanted])


def _decked(tab: Tab) -> None:
    _points(tab, 2)
    slide(tab)
    _points(tab, 3)


def _decked_again(tab: Tab) -> None:
    _points(tab, 3)
    slide(tab)
    _points(tab, 4)


def _points(tab: Tab, count: int) -> None:
    _drawn(tab, count, "panel.models.deckgl.DeckGLPlot", f"points {count}")


def _volumes(tab: Tab) -> None:
    _volume(tab, 2)
    slide(tab)
    _volume(tab, 3)


def _volumes_again(tab: Tab) -> None:
    _volume(tab, 3)
    slide(tab)
    _volume(tab, 4)


def _volume(tab: Tab, count: int) -> None:
    _drawn(tab, count, "panel.models.vtk.VTKVolumePlot", f"{count}")


def _jupytered(tab: Tab) -> None:
    see(tab, "size is 2")
    slide(tab)
    see(tab, "size is 3")
    press(tab)
    see(tab, "size is 6")


def _jupytered_again(tab: Tab) -> None:
    _jupytered(tab)


FEATURES = (
    Feature("basics.py", _basics, _basics_again),
    Feature("onload.py", _onload, _onload_again),
    Feature("deferred.py", _deferred, _deferred_again),
    Feature("location.py", _location, _location_again, "?n=4"),
    Feature("request.py", _request, _request_again, "?a=1&a=2"),
    Feature("busy.py", _busy, _busy_again),
    Feature("generating.py", _generating, _generating_again),
    Feature("periodic.py", _periodic, _periodic_again),
    Feature("cached.py", _cached, _cached_again),
    Feature("executing.py", _executing, _executing_again),
    Feature("holding.py", _holding, _holding_again),
    Feature("notifying.py", _notifying, _notifying_again),
    Feature("templated.py", _templated, _templated_again, elsewhere=("https://fonts.",)),
    Feature("bootstrapped.py", _bootstrapped, _again_at_two),
    Feature("files.py", _files, _files_again),
    Feature("tabulating.py", _tabulating, _tabulating_again),
    Feature("plotting.py", _plotting, _plotting_again),
    Feature("components.py", _components, _components_again),
    Feature("chatting.py", _chatting, _chatting_again, elsewhere=("https://cdn.jsdelivr.net/npm/@tabler/",)),
    Feature("tabbed.py", _tabbed, _tabbed_again),
    Feature("failing.py", _failing, _failing_again),
    Feature("written.md", _written, _again_at_two),
    Feature("noted.ipynb", _noted, _again_at_two),
    Feature("unserved.ipynb", _noted, _again_at_two, elsewhere=("https://fonts.",)),
    Feature("material.py", _material, _material_again),
    Feature("folder", _folder, _again_at_two),
    Feature("holoviewing.py", _holoviewing, _holoviewing_again),
    Feature("figures.py", _figures, _figures_again),
    Feature("decked.py", _decked, _decked_again),
    Feature("volumes.py", _volumes, _volumes_again),
    Feature("jupytered.py", _jupytered, _jupytered_again, elsewhere=("https://cdn.holoviz.org/",), afresh=True),
)

FILES = [feature.file for feature in FEATURES]
"""The apps to serve."""

FOR_ALL = ("https://cdnjs.cloudflare.com/ajax/libs/font-awesome/",)
"""What all pages of a process load from elsewhere, also on Panel's server, once an app of it has used ipywidgets."""
