"""How long a visitor looks at nothing: pages in Chromium with an empty cache, from stock Bokeh and from ours by turns.

    python bench/first_draw.py [--turns N] [--sleep SECONDS] [--json PATH]

Each visit has a profile of its own, so it loads BokehJS anew. The servers run at the same time, and are visited by
turns. Two times of each visit, from the moment at which the browser asks for the page: to the first byte of the answer,
and to the frame in which BokehJS has drawn the plot. Needs Chromium, and Playwright for Python (`make` installs it).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from servers import OURS, STOCK, Kind, Server, serve

__all__: list[str] = []

FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
EARLY = ("--early-pages",)

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
    """

    name: str
    kind: Kind
    workers: int = 1
    sleeps: bool = True


CONTENDERS: Sequence[Contender] = (
    Contender("BokehJS alone: stock, the app does not sleep", STOCK, sleeps=False),
    Contender("stock", STOCK),
    Contender("ours, 1 worker", OURS),
    Contender("ours, 3 workers", OURS, workers=3),
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
        page.goto(f"http://localhost:{server.port}/slow_start", wait_until="commit")
        page.wait_for_function("() => window.__drawn", timeout=120_000)
        first_byte, drawn = page.evaluate(
            "() => [performance.getEntriesByType('navigation')[0].responseStart, window.__drawn]"
        )
        return first_byte, drawn
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
                        options=EARLY if contender.kind is OURS else (),
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
    return found


def report(found: dict[str, Times], sleep: float) -> None:
    longer = max(1000 * sleep, statistics.median(next(iter(found.values())).drawn))
    print(f"{'':<46}{'first byte, ms':>16}{'drawn, ms':>12}{'of the longer':>15}")
    for name, times in found.items():
        drawn = statistics.median(times.drawn)
        print(f"{name:<46}{statistics.median(times.first_byte):>16.0f}{drawn:>12.0f}{drawn / longer:>14.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10, help="visits of each server (default 10)")
    parser.add_argument("--sleep", type=float, default=1.5, help="seconds that the app's code takes (default 1.5)")
    parser.add_argument("--json", type=Path, help="write the times there, too")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is missing")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        found = measure(browser, options.turns, options.sleep)
        browser.close()
    report(found, options.sleep)
    if options.json:
        options.json.write_text(json.dumps({name: vars_of(times) for name, times in found.items()}, indent=1) + "\n")


def vars_of(times: Times) -> dict[str, list[float]]:
    return {"first_byte": times.first_byte, "drawn": times.drawn}


if __name__ == "__main__":
    main()
