"""What holds for every test: neither the developer's settings nor those of the shell that started the run reach it, and
no property test is judged by time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from bokeh.io import doc
from hypothesis import settings
from support.signals import heed_signals

for _name in [name for name in os.environ if name.startswith(("APERTURE_", "BOKEH_"))]:
    del os.environ[_name]

heed_signals()

# A busy machine makes any example slow, and which examples are drawn must not depend on the day in CI.
settings.register_profile("suite", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def nothing_stays_current() -> Iterator[None]:
    """`curdoc()` of the next test is its own: under Bokeh's own rules a callback that fails stays current for ever."""
    yield
    patched: Any = doc._PATCHED_CURDOCS
    if isinstance(patched, ContextVar):  # as on Bokeh's main branch
        patched.set(())
    else:
        patched.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each part of a run took, above the closing line: what a suite's budget of time goes to."""
    tests: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for report in (report for found in terminalreporter.stats.values() for report in found):
        if isinstance(report, pytest.TestReport):
            part = _part(report.nodeid)
            tests[part] += report.when == "call"
            spent[part] += round(report.duration * 1000)
    if len(spent) > 1:
        terminalreporter.section("what each part took, of all processes together")
        for part, milliseconds in spent.most_common():
            terminalreporter.write_line(f"{milliseconds / 1000:7.0f} s  {tests[part]:5} tests  {part}")


def _part(nodeid: str) -> str:
    """The folder of a test, if it is one that unit tests are not in."""
    folder = nodeid.split("/")[1]
    return folder if folder in ("browser", "containers", "integration") else "unit"
