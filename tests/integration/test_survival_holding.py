"""What an app holds back from its viewers (`Document.hold`) is not held back from where its session is kept."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, session_of, steady_viewer
from support.fetch import fetch
from support.patience import run, wait_until
from support.wire import Viewer, page_token

APP = "/pausing"


async def click(viewer: Viewer, name: str) -> None:
    model: Any = {"type": "object", "id": viewer.model(name).id}
    click = {"type": "event", "name": "button_click", "values": {"type": "map", "entries": [["model", model]]}}
    answer = await viewer.patch([{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": click}])
    assert answer.msgtype == "OK"


def moved(cluster: Cluster, session_id: str, epoch: int) -> Callable[[], bool]:
    return lambda: any(owner.epoch > epoch for owner in cluster.owners(session_id))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_held_back_survives_kills_and_drains(workers: int) -> None:
    """Each acknowledged change, after `kill -9` of the worker and after a planned replacement of it.

    Some of them are text that UTF-8 does not have, which Python makes of file names; the page shows it as browsers do.
    """

    async def scenario(cluster: Cluster) -> None:
        token = page_token(cluster.app_url(APP))
        session_id = session_of(token)
        page = f"{cluster.app_url(APP)}?bokeh-session-id={session_id}"
        for round_, sign in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL), 1):
            async with steady_viewer(cluster.ws_url(APP), token) as viewer:
                await click(viewer, "pause")
                assert (await viewer.set("slider", "value", round_)).msgtype == "OK"
                assert (await viewer.set("text", "value", f"caf\udce9 {round_}")).msgtype == "OK"
                await click(viewer, "step")
                owner = await asyncio.to_thread(cluster.owner, session_id)
                owner.node.kill(owner.pid, sign)
            await asyncio.to_thread(wait_until, lambda: not Path(f"/proc/{owner.pid}").exists())  # noqa: B023
            async with steady_viewer(cluster.ws_url(APP), token) as viewer:
                await asyncio.to_thread(wait_until, moved(cluster, session_id, owner.epoch))
            async with steady_viewer(cluster.ws_url(APP), token) as viewer:
                assert viewer.value("slider", "value") == round_
                assert viewer.value("text", "value") == f"caf\udce9 {round_}"
                assert viewer.document is not None
                assert viewer.document.title == f"caf\udce9 {round_}"
                assert list(viewer.value("rows", "data")["x"]) == list(range(round_ + 1))
                assert [child.text for child in viewer.value("added", "children")] == list(map(str, range(round_)))
            assert f"<title>caf\ufffd {round_}</title>" in (await asyncio.to_thread(fetch, page)).text
        assert "afresh" not in cluster.log()

    with Cluster("pausing.py", workers=workers, options=["--durability", "ack"]) as cluster:
        run(scenario(cluster))
