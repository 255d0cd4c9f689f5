"""A worker whose loop stands still in app code: no new visitor meets it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.wire import Viewer, page_token

VISITORS = 20


def test_no_new_visitor_meets_a_stuck_worker(tmp_path: Path) -> None:
    """From the first report on that it has missed: twenty pages are answered while it is stuck."""
    release = tmp_path / "release"
    with Node("stuck.py", options=["--num-procs", "3"]) as node:
        token = page_token(f"{node.app_url('/stuck')}?until={release}")
        wait_until(lambda: any(figures["sessions"] for figures in node.workers()))
        [owner] = (worker for worker, figures in enumerate(node.workers()) if figures["sessions"])

        def lag() -> float:
            seconds: float = node.workers()[owner]["event_loop_lag_seconds"]
            return seconds

        async def stick() -> None:
            async with Viewer.open(node.ws_url("/stuck"), token) as viewer:
                await viewer.pull()
                moved = asyncio.create_task(viewer.set("slider", "value", 1))
                await asyncio.to_thread(wait_until, lambda: lag() > 0.5)
                try:
                    for _ in range(VISITORS):
                        answer = await asyncio.to_thread(fetch, f"{node.app_url('/stuck')}?until={release}")
                        assert answer.status == 200
                    assert not moved.done(), "nothing was stuck, so the test shows nothing"
                finally:
                    release.touch()
                await moved

        run(stick(), 60)
