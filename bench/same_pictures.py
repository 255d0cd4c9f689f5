"""Whether pages look like those of stock Bokeh: apps in Chromium, from stock, from ours, and from ours early.

    python bench/same_pictures.py APP ... [--tolerance SHARE] [--keep FOLDER]

Each app is opened twice on stock: what differs between those two, because it is random or moves, says nothing about
ours. Bokeh's repository has apps in `examples/server/app`, which need `pip install bokeh_sampledata` and some more. An
app that stock cannot show is left out. Exits with 1 if a page differs that should not.
Needs Chromium, Playwright for Python and Pillow (`make` installs them).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from first_draw import EARLY, chromium
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Error
from servers import OURS, STOCK, serve

__all__: list[str] = []

VIEWPORT = {"width": 1400, "height": 1000}
VISIBLE = 24
"""Of 255: less than that, in each channel, no one sees."""
SETTLE = 500
"""Milliseconds from the drawn document to the picture: fonts, images and tiles come later."""
PATIENCE = 60_000
SHOWN = """() => {
  const shown = window.Bokeh?.documents.find(one => one.roots().length);
  return shown?.is_idle && document.querySelector("aperture-notice") == null;
}"""


@dataclass(frozen=True, slots=True)
class Look:
    """What a page looks like.

    Args:
        png: the picture of all of it.
        early: whether it was there before its session.
    """

    png: bytes
    early: bool


def look(browser: Browser, url: str) -> Look | None:
    """Open a page and take its picture; None if nothing is drawn there."""
    page = browser.new_page(viewport=VIEWPORT)  # type: ignore[arg-type]
    try:
        page.goto(url, timeout=PATIENCE)
        page.wait_for_function(SHOWN, timeout=PATIENCE)
        page.wait_for_timeout(SETTLE)
        return Look(page.screenshot(full_page=True), page.locator("#aperture-document").count() == 1)
    except Error:
        return None
    finally:
        page.close()


def difference(one: Look, other: Look) -> float:
    """The share of pixels that differ visibly; 1 for pictures of different sizes."""
    first, second = (Image.open(io.BytesIO(look.png)).convert("RGB") for look in (one, other))
    if first.size != second.size:
        return 1.0
    seen = ImageChops.difference(first, second).point(lambda value: 255 if value > VISIBLE else 0)
    red, green, blue = seen.split()
    any_channel = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return any_channel.histogram()[255] / (first.width * first.height)


@contextmanager
def pages_of(app: Path) -> Iterator[tuple[str, str]]:
    """The app's addresses on stock and on ours."""
    path, named = "/" + app.stem, str(app.with_suffix(""))  # as `servers` names apps
    with serve(STOCK, named) as stock, serve(OURS, named, options=EARLY) as ours:
        yield f"http://localhost:{stock.port}{path}", f"http://localhost:{ours.port}{path}"


def compare(browser: Browser, app: Path, tolerance: float, keep: Path | None) -> tuple[bool, str]:
    """Whether the app's pages look as they should, and a line about it."""
    try:
        with pages_of(app) as (stock, ours):
            looks = {"stock": look(browser, stock), "again": look(browser, stock)}
            looks |= {"ordinary": look(browser, ours), "early": look(browser, ours)}
    except RuntimeError:
        return True, "left out: does not start"
    stock_look, again = looks["stock"], looks["again"]
    if keep is not None:
        for name, found in looks.items():
            if found is not None:
                (keep / f"{app.stem}-{name}.png").write_bytes(found.png)
    if stock_look is None or again is None:
        return True, "left out: stock shows nothing"
    ordinary, early = looks["ordinary"], looks["early"]
    if ordinary is None or early is None:
        return False, "DIFFERS: ours shows nothing"
    still = difference(stock_look, again)
    of_ordinary, of_early = difference(stock_look, ordinary), difference(stock_look, early)
    kind = "early" if early.early else "not early: a page of its own"
    figures = f"stock again {still:.3%}, ordinary {of_ordinary:.3%}, early {of_early:.3%} ({kind})"
    if still > tolerance:
        return True, f"moves: {figures}"
    same = max(of_ordinary, of_early) <= tolerance
    return same, f"{'same' if same else 'DIFFERS'}: {figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("apps", type=Path, nargs="+", metavar="APP", help="a script, or a folder with a main.py")
    parser.add_argument("--tolerance", type=float, default=0.0005, help="share of pixels that may differ (0.0005)")
    parser.add_argument("--keep", type=Path, help="write the pictures there, too")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    good = True
    with chromium() as browser:
        for app in options.apps:
            same, line = compare(browser, app.resolve(), options.tolerance, options.keep)
            print(f"{app.stem:<24}{line}", flush=True)
            good = good and same
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
