"""Opens pages in a browser, from a supervisor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

__all__ = ["open_pages"]

_VIEW = """
import sys
from bokeh.util.browser import view
for url in sys.argv[3:]:
    view(url, browser=sys.argv[1] or None, new=sys.argv[2])
"""


def open_pages(urls: Sequence[str], browser: str | None = None, new: str = "tab") -> None:
    """Open each URL, without waiting for it.

    Args:
        urls: the pages.
        browser: as the `webbrowser` module names it; None means the user's own.
        new: `tab` or `window`.
    """
    # In another process: a browser may block its caller, and the supervisor must not wait nor reap a browser's
    # children.
    view = [sys.executable, "-c", _VIEW, browser or "", new, *urls]
    subprocess.run(["/bin/sh", "-c", '"$@" &', "sh", *view], check=False)
