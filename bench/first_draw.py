"""How long a visitor looks at nothing: pages in Chromium with an empty cache, from stock Bokeh and from ours by turns.

    python bench/first_draw.py [--turns N] [--sleep SECONDS] [--json PATH]

Each visit has a profile of its own, so it loads BokehJS anew. The servers run at the same time, and are visited by
turns. Two times of each visit, from the moment at which the browser asks for the page: to the first byte of the answer,
and to the frame in which BokehJS has drawn the plot. Beside them what nobody can be faster than after the app's code:
the same plot in a page that has its scripts and the document, from then on, a first and a second time.
Needs Chromium, and Playwright for Python (`make` installs it).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bokeh.embed import json_item
from bokeh.plotting import figure
from bokeh.resources import Resources
from playwright.sync_api import Browser, sync_playwright
from servers import OURS, STOCK, Kind, Server, serve

__all__: list[str] = []

FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
EARLY = ("--early-pages",)

SETTLE = 700
"""Milliseconds for a new window, which takes the machine's two cores, to be there before the visit."""

WATCH = """
(() => {
  const look = () => {
    const [shown] = window.Bokeh?.documents ?? [];
    if (shown?.is_idle && shown.roots().length) window.__drawn = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that is visited.

    Args:
        name: in the table.
        kind: which.
        workers: processes with sessions.
        sleeps: whether the app's code takes its time.
        options: of the server.
    """

    name: str
    kind: Kind
    workers: int = 1
    sleeps: bool = True
    options: Sequence[str] = ()


FIRST, SECOND = "a page that has everything: a first plot", "a second plot"

DRAW = """
async item => {
  const target = document.createElement("div");
  document.body.replaceChildren(target);
  const begun = performance.now();
  await Bokeh.embed.embed_item(item, target);
  const shown = Bokeh.documents.at(-1);
  while (!shown.is_idle) await new Promise(requestAnimationFrame);
  return performance.now() - begun;
}
"""

CONTENDERS: Sequence[Contender] = (
    Contender("BokehJS alone: stock, the app does not sleep", STOCK, sleeps=False),
    Contender("stock", STOCK),
    Contender("ours, 1 worker", OURS, options=EARLY),
    Contender("ours, 3 workers", OURS, workers=3, options=EARLY),
    Contender("ours, 1 worker, --num-threads 2", OURS, options=(*EARLY, "--num-threads", "2")),
)


@dataclass(slots=True)
class Times:
    """Milliseconds of each visit."""

    first_byte: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)


def visit(browser: Browser, server: Server) -> tuple[float, float]:
    """Milliseconds to the first byte and to the drawn plot, with an empty cache."""
    context = browser.new_context()
    try:
        context.add_init_script(WATCH)
        page = context.new_page()
        page.wait_for_timeout(SETTLE)
        page.goto(f"http://localhost:{server.port}/slow_start", wait_until="commit")
        page.wait_for_function("() => window.__drawn", timeout=120_000)
        first_byte, drawn = page.evaluate(
            "() => [performance.getEntriesByType('navigation')[0].responseStart, window.__drawn]"
        )
        return first_byte, drawn
    finally:
        context.close()


def draw(browser: Browser, server: Server) -> tuple[float, float]:
    """Milliseconds in which a page that has everything draws the plot, for the first and for the second time."""
    plot = figure(name="plot", title="drawn")
    plot.line([0, 1, 2], [0, 1, 0])
    item = json_item(plot)
    context = browser.new_context()
    try:
        page = context.new_page()
        scripts = Resources(mode="server", root_url=f"http://localhost:{server.port}/").render_js()
        page.set_content(f"<body>{scripts}</body>")
        page.wait_for_function("() => window.Bokeh?.Models.get('DataTable') != null")
        page.wait_for_timeout(SETTLE)
        return page.evaluate(DRAW, item), page.evaluate(DRAW, item)
    finally:
        context.close()


def measure(browser: Browser, turns: int, sleep: float) -> dict[str, Times]:
    found = {contender.name: Times() for contender in CONTENDERS}
    with ExitStack() as stack:
        servers = [
            (
                contender.name,
                stack.enter_context(
                    serve(
                        contender.kind,
                        "slow_start",
                        options=contender.options,
                        workers=contender.workers,
                        env={"BENCH_SLEEP": str(sleep if contender.sleeps else 0.0)},
                    )
                ),
                contender.workers,
            )
            for contender in CONTENDERS
        ]
        for _, server, workers in servers:
            for _ in range(2 * workers):  # the first page of each worker is an ordinary one
                visit(browser, server)
        for _ in range(turns):
            for name, server, _ in servers:
                first_byte, drawn = visit(browser, server)
                found[name].first_byte.append(first_byte)
                found[name].drawn.append(drawn)
            first, second = draw(browser, servers[0][1])
            found.setdefault(FIRST, Times()).drawn.append(first)
            found.setdefault(SECOND, Times()).drawn.append(second)
    return found


def report(found: dict[str, Times], sleep: float) -> None:
    longer = max(1000 * sleep, statistics.median(next(iter(found.values())).drawn))
    print(f"{'':<50}{'first byte, ms':>16}{'drawn, ms':>12}{'of the longer':>15}")
    for name, times in found.items():
        drawn = statistics.median(times.drawn)
        first_byte = f"{statistics.median(times.first_byte):.0f}" if times.first_byte else ""
        print(f"{name:<50}{first_byte:>16}{drawn:>12.0f}{drawn / longer:>14.2f}x")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; the program ends if there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("Chromium is missing")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10, help="visits of each server (default 10)")
    parser.add_argument("--sleep", type=float, default=1.5, help="seconds that the app's code takes (default 1.5)")
    parser.add_argument("--json", type=Path, help="write the times there, too")
    options = parser.parse_args()
    with chromium() as browser:
        found = measure(browser, options.turns, options.sleep)
    report(found, options.sleep)
    if options.json:
        options.json.write_text(json.dumps({name: vars_of(times) for name, times in found.items()}, indent=1) + "\n")


def vars_of(times: Times) -> dict[str, list[float]]:
    return {"first_byte": times.first_byte, "drawn": times.drawn}


if __name__ == "__main__":
    main()
