"""What an app keeps with its session, after its worker was killed: over processes, Redis and websockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from support.cluster import Cluster, session_of, steady_viewer
from support.node import EXAMPLES
from support.patience import run, wait_until
from support.wire import Viewer, page_token

APP = "/notes"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(EXAMPLES / "apps" / "notes.py", workers=1, options=["--durability", "ack"]) as cluster:
        yield cluster


async def write(viewer: Viewer, words: str) -> None:
    assert (await viewer.set("text", "value", words)).msgtype == "OK"


async def delete(viewer: Viewer, number: int) -> None:
    """Click the button beside a note."""
    rep = {"type": "object", "id": viewer.model(f"delete-{number}").id}
    click = {"type": "event", "name": "button_click", "values": {"type": "map", "entries": [["model", rep]]}}
    answer = await viewer.patch([{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": click}])
    assert answer.msgtype == "OK"


def taken_over(cluster: Cluster, session_id: str, epoch: int) -> Callable[[], bool]:
    return lambda: any(owner.epoch > epoch for owner in cluster.owners(session_id))


def test_notes_survive_worker_after_worker(cluster: Cluster) -> None:
    """Each acknowledged note is there, and each button deletes its own, in whichever process."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        session_id = session_of(token)
        written: dict[int, str] = {}
        for step in range(1, 4):
            async with steady_viewer(cluster.ws_url(APP), token) as viewer:
                for number, words in written.items():
                    assert viewer.value(f"note-{number}", "text") == words
                number = 2 * step - 1
                await write(viewer, f"note {number}")
                await write(viewer, f"note {number + 1}")
                written[number + 1] = f"note {number + 1}"
                await viewer.wait_for_value("summary", "text", f"{step + 1} of {number + 1} notes are left")
                await delete(viewer, number)
                await viewer.wait_for_value("summary", "text", f"{step} of {number + 1} notes are left")
                owner = await asyncio.to_thread(cluster.owner, session_id)
                owner.node.kill(owner.pid)
            async with steady_viewer(cluster.ws_url(APP), token):
                await asyncio.to_thread(wait_until, taken_over(cluster, session_id, owner.epoch))
        logs = "".join(node.log() for node in cluster.nodes)
        assert logs.count("session remade from its values") == 3
        assert "afresh" not in logs

    run(scenario())
