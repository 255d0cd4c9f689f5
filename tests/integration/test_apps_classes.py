"""Classes that a script defines must not outlive its session in Bokeh's tables: they would break every page."""

from __future__ import annotations

import pytest
from support.fetch import fetch
from support.node import Node
from support.patience import wait_until

OPTIONS = ["--unused-session-lifetime", "1", "--check-unused-sessions", "50"]


@pytest.mark.parametrize("workers", [1, 3])
def test_pages_are_made_after_a_session_with_classes_has_gone(workers: int) -> None:
    """Of its app and of every other, and the scripts that embed them."""
    with Node("classes.py", "broadcast.py", options=["--num-procs", str(workers), *OPTIONS]) as node:
        for _ in range(2 * workers):  # each worker has had one, as the least busy one gets the next
            assert fetch(node.app_url("/classes")).status == 200
        wait_until(lambda: not node.sessions(), 30, "the sessions stay")
        for _ in range(2 * workers):
            for path in ("/classes", "/broadcast", "/classes/autoload.js?bokeh-autoload-element=x"):
                assert fetch(node.app_url(path)).status == 200
        assert "Traceback" not in node.log()
