"""What holds for every test: neither the developer's settings nor those of the shell that started the run reach it, and
no property test is judged by time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from bokeh.io import doc
from hypothesis import settings

for _name in [name for name in os.environ if name.startswith(("APERTURE_", "BOKEH_"))]:
    del os.environ[_name]

# What nohup, or a shell that starts a job in the background, has ignored, every server would go on ignoring.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

# A busy machine makes any example slow, and which examples are drawn must not depend on the day in CI.
settings.register_profile("suite", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def nothing_stays_current() -> Iterator[None]:
    """`curdoc()` of the next test is its own: under Bokeh's own rules a callback that fails stays current for ever."""
    yield
    doc._PATCHED_CURDOCS.clear()
