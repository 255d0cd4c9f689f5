"""Cleaners of temporary files take a node's folders away while it runs: nothing that starts later misses them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import session_of, steady_viewer
from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.wire import page_token

APP = "/relayed"
WORKERS = 2


@pytest.fixture
def tmpdir() -> Iterator[Path]:
    """A short path: a socket goes into it."""
    path = Path("/tmp") / f"cleaned-{os.getpid()}"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def node(tmpdir: Path) -> Iterator[Node]:
    options = ["--num-procs", str(WORKERS), "--durability", "ack"]
    with Node("relayed.py", options=options, env={"TMPDIR": str(tmpdir)}) as node:
        yield node


def redis_pids(node: Node) -> list[int]:
    """One, or none while it is being started."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    return [int(pid) for pid in children if name_of(pid) == "redis-server"]


def name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""  # it has just ended


def owner_pid(node: Node, token: str) -> int:
    pid: int = next(row["pid"] for row in node.sessions() if session_of(token).startswith(row["id"]))
    return pid


def ready(node: Node) -> bool:
    return fetch(f"{node.admin_url}/readyz").status == 200


def replace(node: Node, pid: int) -> None:
    """Kill a worker, and wait until another serves in its place."""
    node.kill(pid)
    wait_until(lambda: pid not in node.worker_pids() and len(node.worker_pids()) == WORKERS and ready(node), 30)


async def moved(node: Node, token: str, value: int) -> None:
    async with steady_viewer(node.ws_url(APP), token) as viewer:
        assert (await viewer.set("slider", "value", value)).msgtype == "OK"


async def goes_on(node: Node, token: str, value: int) -> None:
    async with steady_viewer(node.ws_url(APP), token) as viewer:
        assert viewer.value("slider", "value") == value


def test_workers_that_are_replaced_find_the_nodes_own_redis(node: Node, tmpdir: Path) -> None:
    """All of them, one after the other, with the session that was kept in it; the folder is not even there."""

    async def scenario() -> None:
        token = await asyncio.to_thread(page_token, node.app_url(APP))
        await moved(node, token, 7)
        shutil.rmtree(tmpdir)
        for _ in range(WORKERS + 1):
            await asyncio.to_thread(replace, node, owner_pid(node, token))
            await goes_on(node, token, 7)

    run(scenario(), 90)


def test_a_redis_that_is_replaced_is_found_again(node: Node, tmpdir: Path) -> None:
    """By those who knew the one before, and by who comes after; also when its folder is taken away once more."""

    async def scenario() -> None:
        token = await asyncio.to_thread(page_token, node.app_url(APP))
        await moved(node, token, 7)
        shutil.rmtree(tmpdir)
        (before,) = redis_pids(node)
        os.kill(before, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: redis_pids(node) not in ([], [before]) and ready(node), 30)
        await moved(node, token, 8)
        other = next(pid for pid in node.worker_pids() if pid != owner_pid(node, token))
        await asyncio.to_thread(replace, node, other)
        shutil.rmtree(tmpdir)
        await asyncio.to_thread(replace, node, owner_pid(node, token))
        await goes_on(node, token, 8)

    run(scenario(), 90)


def test_metrics_go_on_where_they_were(node: Node, tmpdir: Path) -> None:
    """What was written is there again, and who comes later is counted, too."""

    def generations() -> set[str]:
        lines = fetch(f"{node.admin_url}/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[1] for line in lines if line.startswith("aperture_worker_generation{")}

    page_token(node.app_url(APP))
    wait_until(lambda: len(generations()) == 1, 20)
    shutil.rmtree(tmpdir)
    wait_until(lambda: fetch(f"{node.admin_url}/metrics").status == 200 and generations() == {"1.0"}, 20)
    replace(node, node.worker_pids()[0])
    wait_until(lambda: generations() == {"1.0", "2.0"}, 20)


def test_a_folder_that_another_user_made_in_its_place_is_not_believed_in(tmp_path: Path) -> None:
    """What everybody may enter is not ours."""
    from aperture.private_folder import is_private, make_private

    ours = tmp_path / "in" / "folder"
    make_private(ours)
    make_private(ours)
    assert is_private(ours)
    ours.chmod(0o755)
    assert not is_private(ours)
    with pytest.raises(PermissionError):
        make_private(ours)
    (tmp_path / "link").symlink_to(ours)
    assert not is_private(tmp_path / "link")
