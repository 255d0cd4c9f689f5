"""Every example in a real browser: it loads, a slider moved with the mouse moves the plot, the console stays clean."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.browser import BrowserTabs, Tab
from support.node import EXAMPLES, StockNode
from support.patience import seconds

ACTIVE_ROWS = """name => Bokeh.index.get_one(Bokeh.documents[0].get_model_by_name(name))
    .shadow_el.querySelectorAll(".slick-row .slick-cell.selected:first-child").length"""
TITLE = "() => Bokeh.documents[0].get_model_by_name('plot').title.text"


def selected(tab: Tab) -> list[int]:
    """The rows of the birds' table that are selected."""
    rows: list[int] = tab.page.evaluate("() => Bokeh.documents[0].get_model_by_name('birds').selected.indices")
    return rows


@contextmanager
def flask_page(server: str, port: int) -> Iterator[str]:
    """The Flask example as the program it is; yields the URL of its page."""
    command = [sys.executable, str(EXAMPLES / "flask_embed.py"), "--server", server, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "Running on http://" in line:
                    yield f"http://localhost:{port}/"
                    break
            else:
                pytest.fail("Flask never said where it runs")
        finally:
            process.terminate()
            process.communicate(timeout=seconds(10))


@pytest.mark.parametrize(
    ("app", "slider", "fraction", "source", "column", "plot"),
    [
        ("/sliders", "amplitude", 0.95, "wave", "y", "plot"),
        ("/selection", "bins", 0.8, "bars", "left", "histogram"),
        ("/weather", "days", 0.6, "weather", "mean", "temperature"),
    ],
)
def test_a_slider_moved_with_the_mouse_moves_the_plot(
    example_node: StockNode,
    tabs: BrowserTabs,
    app: str,
    slider: str,
    fraction: float,
    source: str,
    column: str,
    plot: str,
) -> None:
    """The data that Python computes for the new value arrive in the browser and are drawn."""
    tab = tabs(example_node.app_url(app))
    before, drawn, value = tab.column(source, column), tab.picture(plot), tab.value(slider, "value")
    tab.drag_slider(slider, fraction)
    assert tab.value(slider, "value") != value
    assert tab.wait_for_column(source, column, before) != before
    tab.wait_for_redraw(plot, drawn)


def test_the_text_input_names_the_plot(example_node: StockNode, tabs: BrowserTabs) -> None:
    """What is typed goes to Python and comes back as the plot's title."""
    tab = tabs(example_node.app_url("/sliders"))
    tab.page.locator("input[type=text]").fill("Typed by a test")
    tab.page.keyboard.press("Enter")
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('plot').title.text === 'Typed by a test'")


def test_the_dashboard_streams_and_pauses(example_node: StockNode, tabs: BrowserTabs) -> None:
    """Samples arrive by themselves, obey the slider, keep to the rollover, and stop while it is paused."""
    tab = tabs(example_node.app_url("/dashboard"))
    times, drawn, heat = tab.column("telemetry", "t"), tab.picture("traffic"), tab.picture("heatmap")
    later = tab.wait_for_column("telemetry", "t", times)
    assert later[-1] > times[-1]
    assert len(later) == len(times)
    tab.wait_for_redraw("traffic", drawn)
    tab.wait_for_redraw("heatmap", heat)
    tab.drag_slider("load", 1.0)
    tab.wait_for(
        """() => {
          const source = Bokeh.documents[0].get_model_by_name("regions");
          return Array.from(source.data.requests).reduce((a, b) => a + b) > 2600;
        }"""
    )
    tab.page.get_by_role("button", name="Pause").click()
    tab.page.get_by_role("button", name="Resume").wait_for()
    # The label changed in Python, in order with the stream: nothing more is sent after it.
    paused = tab.column("telemetry", "t")
    since = time.monotonic()
    tab.page.get_by_role("button", name="Resume").click()
    tab.page.get_by_role("button", name="Pause").wait_for()
    resumed = tab.wait_for_column("telemetry", "t", paused)
    # Seconds of samples, four in each: no more than have passed since, and the one that was due.
    assert resumed[-1] - paused[-1] <= time.monotonic() - since + 0.5, "it went on while it was paused"


def test_a_selection_links_plot_table_and_python(example_node: StockNode, tabs: BrowserTabs) -> None:
    """Points under a dragged box light up in the table, a row ticked there joins them, and Python sums them up."""
    tab = tabs(example_node.app_url("/selection"))
    assert selected(tab) == []
    tab.drag_over("scatter", (0.27, 0.6), (0.52, 0.86))
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('summary').text.includes('of 180 selected')")
    chosen = selected(tab)
    assert len(chosen) > 20
    assert f"<b>{len(chosen)} of 180" in tab.value("summary", "text")
    assert tab.page.evaluate(ACTIVE_ROWS, "table") > 0
    assert sum(tab.column("bars", "chosen")) == len(chosen)
    tab.page.locator(".slick-row").nth(1).locator("input[type=checkbox]").click()
    tab.wait_for("n => Bokeh.documents[0].get_model_by_name('birds').selected.indices.length !== n", len(chosen))
    tab.wait_for(
        "n => Bokeh.documents[0].get_model_by_name('summary').text.startsWith(`<b>${n} of 180`)", len(selected(tab))
    )


def test_notes_are_written_and_deleted(example_node: StockNode, tabs: BrowserTabs) -> None:
    """Each by its own button; what is typed is text, whatever it looks like."""
    tab = tabs(example_node.app_url("/notes"))
    for number, words in enumerate(("first", "<b>second</b>", "third"), 1):
        tab.page.locator("input[type=text]").fill(words)
        tab.page.keyboard.press("Enter")
        tab.page.get_by_text(f"{number} of {number} notes are left").wait_for()
    tab.page.get_by_text("<b>second</b>").wait_for()
    tab.page.get_by_role("button", name="Delete").nth(0).click()
    tab.page.get_by_text("2 of 3 notes are left").wait_for()
    assert tab.page.get_by_text("first", exact=True).count() == 0
    tab.page.get_by_text("third", exact=True).wait_for()


def test_weather_has_its_template_theme_and_static_files(example_node: StockNode, tabs: BrowserTabs) -> None:
    """The directory app's page is laid out by its template, styled by its stylesheet, and its plots by its theme."""
    tab = tabs(example_node.app_url("/weather?place=Reykjavik"))
    assert tab.page.locator("header h1").inner_text() == "A year of weather"
    assert tab.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(238, 242, 246)"
    assert tab.value("temperature", "background_fill_color") == "#fbfcfd"
    assert tab.value("place", "value") == "Reykjavik"


def test_flask_embeds_the_session_that_it_changed(example_node: StockNode, flask_port: int, tabs: BrowserTabs) -> None:
    """The page of another server shows the pulled session with its new title, and the slider in it works."""
    with flask_page(example_node.app_url("/sliders"), flask_port) as url:
        tab = tabs(url)
        assert tab.page.evaluate(TITLE) == "A wave that Flask has named"
        before, drawn = tab.column("wave", "y"), tab.picture("plot")
        tab.drag_slider("frequency", 0.9)
        tab.wait_for_column("wave", "y", before)
        tab.wait_for_redraw("plot", drawn)
