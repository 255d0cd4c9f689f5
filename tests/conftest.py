"""What holds for every test: the developer's own settings do not reach it, and no property test is judged by time."""

from __future__ import annotations

import os

from hypothesis import settings

for _name in [name for name in os.environ if name.startswith(("APERTURE_", "BOKEH_"))]:
    del os.environ[_name]

# A busy machine makes any example slow, and which examples are drawn must not depend on the day in CI.
settings.register_profile("suite", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("suite")
