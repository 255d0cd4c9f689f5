"""The Redis that a node starts for itself, and what a node says of a Redis that it was given in vain."""

from __future__ import annotations

import os
import signal
import stat
from functools import partial
from pathlib import Path

import pytest
from support.fetch import fetch
from support.node import Node
from support.patience import wait_until
from support.redis import RedisServer, free_port

from aperture.errors import ExitCode

APP = "arrays.py"
TWO = ("--num-procs", "2")
PASSWORD = "correct-horse"


def redis_pids(node: Node) -> list[int]:
    """Redis overwrites its environment to show its title, so it is found as a child of the supervisor."""
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(entry.name) for entry in entries if described(int(entry.name)) == ("redis-server", node.pid)]


def described(pid: int) -> tuple[str, int] | None:
    """The name and the parent of a living process."""
    try:
        head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    state, parent = rest.split()[:2]
    return None if state == "Z" else (head.partition("(")[2], int(parent))


def folder(pid: int) -> Path:
    return Path(os.readlink(f"/proc/{pid}/cwd"))


def inodes(table: str) -> set[str]:
    """The sockets of one of the kernel's tables."""
    return {line.split()[9] for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]}


def sockets_of(pid: int) -> set[str]:
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def test_a_node_of_several_workers_has_a_private_redis() -> None:
    """No port, a folder that no other user can read, and nothing left of it afterwards."""
    with Node(APP, options=TWO) as node:
        (pid,) = redis_pids(node)
        where = folder(pid)
        assert stat.S_IMODE(where.stat().st_mode) == 0o700
        assert not sockets_of(pid) & (inodes("tcp") | inodes("tcp6"))
        assert fetch(node.app_urls[0]).status == 200
        assert node.stop() == ExitCode.OK
    assert not where.exists()
    assert described(pid) is None


def test_a_node_of_one_worker_needs_none() -> None:
    """There is no server to talk to."""
    with Node(APP) as node:
        assert redis_pids(node) == []


def is_replaced(node: Node, pid: int) -> bool:
    """Whether the node has another Redis by now."""
    return redis_pids(node) not in ([], [pid])


def is_in(pid: int, where: Path) -> bool:
    """Whether the Redis of this process has its socket in that folder."""
    return folder(pid) == where


def test_a_redis_that_dies_is_started_again() -> None:
    """Again and again, and the workers find it on the same socket."""
    with Node(APP, options=TWO) as node:
        workers = sorted(node.worker_pids())
        for times in range(1, 3):
            (pid,) = redis_pids(node)
            where = folder(pid)
            os.kill(pid, signal.SIGKILL)
            wait_until(partial(is_replaced, node, pid), why="there is a new one")
            (after,) = redis_pids(node)
            wait_until(partial(is_in, after, where), why="it is where the first one was")
            node.wait_for_log(r"connected to Redis at .* again", 4 * times)
            wait_until(lambda: fetch(node.app_urls[0]).status == 200, why="it serves as before")
        assert sorted(node.worker_pids()) == workers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_the_node_in_good_order(number: signal.Signals) -> None:
    """A terminal's Ctrl-C does not take Redis away from workers that still say goodbye."""
    with Node(APP, options=TWO) as node:
        (pid,) = redis_pids(node)
        os.killpg(node.pid, number)
        assert node.wait() == ExitCode.OK
        assert "is lost" not in node.log()
    assert described(pid) is None


def test_it_ends_with_a_supervisor_that_was_killed() -> None:
    """It is in a process group of its own, so nothing else would end it; and its folder goes, too."""
    with Node(APP, options=TWO) as node:
        (pid,) = redis_pids(node)
        where = folder(pid)
        node.process.kill()
        node.wait()
        wait_until(lambda: described(pid) is None, 20, "it is gone")
        wait_until(lambda: not node.processes(), 20, "everybody else is gone, too")
        assert not where.exists()


def test_without_redis_server_a_stand_in_serves(tmp_path: Path) -> None:
    """Said once, not by each worker."""
    with Node(APP, options=TWO, env={"PATH": str(tmp_path)}) as node:
        assert fetch(node.app_urls[0]).status == 200
        assert node.log().count("redis-server is not installed") == 1
        assert "cannot connect" not in node.log()
        assert node.stop() == ExitCode.OK


def test_a_redis_that_does_not_start_stops_the_start(tmp_path: Path) -> None:
    """With what it has to say, and an exit code of its own."""
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with Node(APP, options=TWO, env={"PATH": f"{tmp_path}:/bin"}, wait=False) as node:
        assert node.wait() == ExitCode.NO_BUS
        assert "own Redis does not start" in node.log()


# A Redis that was given


def refused(*options: str, **env: str) -> tuple[int, str]:
    """The exit code and the log of a node that cannot start."""
    with Node(APP, options=options, env=env, wait=False) as node:
        return node.wait(), node.log()


def test_a_redis_that_is_down_is_said_and_ends_the_start() -> None:
    """Where it was looked for, and without the password."""
    port = free_port()
    code, said = refused("--redis-url", f"redis://:{PASSWORD}@127.0.0.1:{port}")
    assert code == ExitCode.NO_BUS
    assert f"127.0.0.1:{port}: Connection refused" in said
    assert PASSWORD not in said
    assert "Traceback" not in said


def test_a_wrong_password_is_said_and_ends_the_start() -> None:
    """From the environment, as it should be."""
    with RedisServer({"requirepass": PASSWORD}) as server:
        code, said = refused("--redis-url", server.url, APERTURE_REDIS_PASSWORD="wrong-horse")
    assert code == ExitCode.NO_BUS
    assert "invalid username-password pair" in said
    assert "wrong-horse" not in said


def test_a_wrong_url_is_refused_before_anything_starts() -> None:
    """It is a slip of the pen, as any other option may have."""
    code, said = refused("--redis-url", f"http://:{PASSWORD}@cache")
    assert code == ExitCode.USAGE
    assert "--redis-url" in said
    assert PASSWORD not in said
