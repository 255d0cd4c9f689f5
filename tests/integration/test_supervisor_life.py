"""The processes of a node: their start, their deaths, and their end."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from support.echo_node import EchoNode, Plan, echo_node, request
from support.patience import wait_until

from aperture.errors import ExitCode


def are_replaced(node: EchoNode, before: set[int]) -> bool:
    """Whether two workers are up, and none of those before."""
    now = node.workers()
    return len(now) == 2 and not set(now.values()) & before


@pytest.mark.parametrize(("mode", "code"), [("broken", ExitCode.APP_BROKEN), ("dies", ExitCode.INTERNAL)])
def test_a_worker_that_cannot_boot_stops_the_start(mode: str, code: ExitCode) -> None:
    """A broken app ends the node with its own exit code instead of looping."""
    node = EchoNode(Plan(2, mode))
    try:
        assert node.wait() == code
        assert node.descendants() == []
    finally:
        node.stop()


def test_a_node_none_of_whose_workers_can_boot_again_ends() -> None:
    """Later on it tries a few times, and then gives up."""
    with echo_node(1, mode="breaks later") as node:
        os.kill(node.ask()["pid"], signal.SIGKILL)
        assert node.wait() == ExitCode.APP_BROKEN
        assert node.descendants() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_in_good_order(number: signal.Signals) -> None:
    """Exit code 0, and no process is left."""
    with echo_node(3) as node:
        connection = node.connect()
        connection.ask()
        node.process.send_signal(number)
        assert node.wait() == ExitCode.OK
        assert node.descendants() == []
        assert connection.rest() == b""
        connection.close()


def test_ctrl_c_reaches_every_process_and_only_the_supervisor_acts() -> None:
    """A terminal sends SIGINT to the whole group; workers still end in good order."""
    with echo_node(2) as node:
        os.killpg(node.process.pid, signal.SIGINT)
        assert node.wait() == ExitCode.OK


def test_workers_that_ignore_the_end_are_killed_after_the_grace_period() -> None:
    """The exit code says that something had to be killed."""
    with echo_node(2, mode="stubborn", shutdown_grace=1.0) as node:
        node.process.terminate()
        assert node.wait() == ExitCode.KILLED
        assert node.descendants() == []


def test_a_worker_that_hangs_in_its_exit_handlers_is_replaced() -> None:
    """Also if it was not asked to end, and no deadline runs for that."""
    with echo_node(1, mode="hangs at exit", shutdown_grace=1.0) as node:
        before = node.workers()
        os.kill(before[0], signal.SIGTERM)
        wait_until(lambda: replaced(node, before))
        assert "worker 0 ended with SIGALRM" in node.logged()


def test_a_second_signal_kills_at_once() -> None:
    """A user who presses Ctrl-C twice does not want to wait."""
    with echo_node(2, mode="stubborn", shutdown_grace=600.0) as node:
        node.process.terminate()
        time.sleep(1.2)  # sooner, it would be taken for an echo of the first
        node.process.terminate()
        assert node.wait() == ExitCode.KILLED
        assert node.descendants() == []


def test_children_of_a_killed_supervisor_leave() -> None:
    """No process is left to hold the port."""
    with echo_node(2) as node:
        assert len(node.descendants()) == 4
        node.process.kill()
        node.wait()
        # The process that inherits orphans here may be slow to reap them, or never, in a container without an init.
        wait_until(lambda: not node.descendants(zombies=False), why="the children are gone")


def test_a_hang_up_replaces_the_workers_one_by_one() -> None:
    """Every worker is new afterwards, and requests were answered all the while."""
    with echo_node(2) as node:
        before = node.workers()
        node.process.send_signal(signal.SIGHUP)
        replaced = False
        deadline = time.monotonic() + 15
        while not replaced and time.monotonic() < deadline:
            assert node.ask()["session"] is None
            now = node.workers()
            replaced = len(now) == 2 and not set(now.values()) & set(before.values())
        assert replaced
        assert "the next one starts at once" in node.logged()


def replaced(node: EchoNode, before: dict[int, int]) -> bool:
    """Whether every worker is there, and another one than before."""
    now = node.workers()
    return now.keys() == before.keys() and not set(now.values()) & set(before.values())


def test_a_hang_up_during_the_start_replaces_the_workers_after_it() -> None:
    """They may have loaded the apps already, so it counts; but a worker that boots cannot be stopped."""
    node = EchoNode(Plan(2, "slow boot"))
    try:
        wait_until(lambda: len(node.descendants()) == 4, why="all are forked")
        node.process.send_signal(signal.SIGHUP)
        node.wait_ready()
        wait_until(lambda: node.logged().count("the next one starts at once") == 2 and len(node.workers()) == 2)
        assert "cannot start" not in node.logged()
    finally:
        node.stop()


def test_a_hang_up_that_meets_a_booting_worker_replaces_all() -> None:
    """The one that boots is stopped once it serves; its end is no failed boot, and the others have their turn."""
    with echo_node(2, mode="slow boot") as node:
        first, all_before = node.workers(), set(node.descendants())
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: set(node.descendants(zombies=False)) - all_before, why="the next one is forked")
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: replaced(node, first))
        assert "not replaced any more" not in node.logged()


def test_signals_that_an_import_has_handlers_for_end_nothing() -> None:
    """They are delivered to the supervisor's mailbox, too, and are nothing to it."""
    with echo_node(1, mode="handlers") as node:
        before = node.workers()
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN, signal.SIGHUP):
            node.process.send_signal(number)
        wait_until(lambda: replaced(node, before), why="the last of them was followed")


def test_a_worker_that_retires_gets_nothing_more() -> None:
    """As one that is replaced: a session that it had is served by the next worker before it has ended."""
    with echo_node(2, mode="stubborn", shutdown_grace=2.0) as node:
        connection = node.connect()
        answer = connection.ask("/retire?bokeh-session-id=a")
        wait_until(lambda: node.ask("/?bokeh-session-id=a")["pid"] != answer["pid"], why="others serve the session")
        assert Path(f"/proc/{answer['pid']}").exists(), "it is still there, and was not killed"
        wait_until(lambda: node.workers().get(answer["worker"], answer["pid"]) != answer["pid"], why="a new one is up")
        assert "ended with SIGKILL; the next one starts at once" in node.logged()


def test_a_hundred_worker_restarts_leak_neither_process_nor_descriptor() -> None:
    """The supervisor and the newest worker have as many descriptors as in the beginning."""
    with echo_node(2) as node:
        node.ask()
        supervisor = f"/proc/{node.process.pid}/fd"
        first = first_worker = 0
        for restart in range(50):
            before = node.workers()
            node.process.send_signal(signal.SIGHUP)
            wait_until(partial(are_replaced, node, set(before.values())))
            if restart == 0:
                # An endpoint has a spare descriptor from the first message that it receives.
                wait_until(lambda: len(node.descendants()) == 4)
                first, first_worker = len(os.listdir(supervisor)), node.ask()["descriptors"]
        wait_until(lambda: len(node.descendants()) == 4)
        wait_until(lambda: len(os.listdir(supervisor)) == first)
        assert node.ask()["generation"] == 50
        wait_until(lambda: node.ask()["descriptors"] <= first_worker)


def test_a_gateway_that_is_killed_again_and_again_comes_back() -> None:
    """Nothing of it is lost with the process: listening sockets and links are the supervisor's."""
    with echo_node(1) as node:
        for _ in range(3):
            before = node.gateway()
            os.kill(before, signal.SIGKILL)
            connection = node.connect()
            connection.send(request("/?bokeh-session-id=a"))
            assert connection.response()[0] == 200
            connection.close()
            assert node.gateway() != before


def test_connections_during_the_end_are_told_so_or_refused() -> None:
    """While workers stop, no new connection is let in."""
    with echo_node(1, mode="stubborn", shutdown_grace=2.0) as node:
        half = node.connect()
        half.send(b"GET / HTTP/1.1\r\n")
        time.sleep(0.2)
        node.process.terminate()
        time.sleep(0.3)
        half.send(b"\r\n")
        assert half.response()[0] == 503
        half.close()
        with pytest.raises(ConnectionRefusedError):
            node.connect()


def test_a_busy_port_is_reported_as_such() -> None:
    """The plain OSError with its errno is for the command line to report."""
    with echo_node(1) as node:
        second = EchoNode(Plan(1, settings={"port": node.port}))
        try:
            assert second.wait() != 0
            assert "Address already in use" in second.logged()
        finally:
            second.stop()


def test_a_retiring_worker_keeps_no_new_connection_waiting() -> None:
    """While one worker takes its leave, the other answers, also for sessions of the first."""
    with echo_node(2, mode="stubborn", shutdown_grace=3.0) as node:
        owners = [node.ask(f"/?bokeh-session-id={name}")["worker"] for name in "ab"]
        assert sorted(owners) == [0, 1]
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(node.workers()) == 1, why="the gateway knows")
        assert {node.ask(f"/?bokeh-session-id={name}")["worker"] for name in "abcd"} == {1}
        assert len(node.descendants()) == 4
        node.process.kill()
        node.wait()


def test_a_poll_that_says_so_ends_the_node() -> None:
    """`--dev` watches files this way."""
    with echo_node(1, mode="until polled") as node:
        assert node.ask()["session"] is None
        assert node.wait() == ExitCode.OK


def test_orphans_that_become_its_own_are_reaped() -> None:
    """As process 1 of a container it leaves no zombies of others, and takes none of them for a child of its own."""
    with echo_node(2, mode="adopts") as node:
        workers = node.workers()
        for _ in range(20):
            node.ask("/orphan")
        wait_until(lambda: len(node.descendants()) == 4, why=f"processes are left: {node.descendants()}")
        assert node.workers() == workers
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: node.workers().get(0, workers[0]) != workers[0], why="the worker was not started again")
