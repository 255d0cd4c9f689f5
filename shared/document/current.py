"""Which document is current, also after app code has failed.

Bokeh's own `patch_curdoc` puts back what was current only where the code inside of it succeeds. Each callback that
raises leaves its document current, for as long as the process lives: `curdoc()` then means a stranger's document, or
fails once that one is gone, and the list of them grows with every failure.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bokeh.application.handlers.code
import bokeh.io.doc

__all__ = ["install", "patch_curdoc"]


def install() -> None:
    """Make Bokeh put back what was current whatever happens; harmless twice."""
    for module in (bokeh.io.doc, bokeh.application.handlers.code):
        module.patch_curdoc = patch_curdoc  # type: ignore[attr-defined]


@contextmanager
def patch_curdoc(doc: Any) -> Iterator[None]:
    """Stands in for `bokeh.io.doc.patch_curdoc`."""
    patched = bokeh.io.doc._PATCHED_CURDOCS
    entry = weakref.ref(doc)
    patched.append(entry)
    del doc  # what is current may go away; Bokeh then says so
    try:
        yield
    finally:
        # The last of its own: another thread may have added one since.
        del patched[len(patched) - 1 - next(i for i, other in enumerate(reversed(patched)) if other is entry)]
