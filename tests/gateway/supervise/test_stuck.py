"""`aperture.gateway.supervise.stuck`: beats that come, beats that do not, and time in which both stood still."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NoReturn

import pytest

from aperture.gateway.supervise.stuck import STACKS_SIGNALS, LoopWatch
from aperture.wire.seats import BEAT_INTERVAL


def test_a_loop_that_beats_is_never_silent() -> None:
    """However long it is watched."""
    watch = LoopWatch()
    for look in range(100):
        watch.beat()
        assert watch.silent_for(look * BEAT_INTERVAL) == 0
    watch.close()


def test_silence_is_added_up_until_the_next_beat() -> None:
    """It begins with the first look that finds no new beat."""
    watch = LoopWatch()
    watch.beat()
    heard = [watch.silent_for(10.0 + look * BEAT_INTERVAL) for look in range(4)]
    assert heard == [0, BEAT_INTERVAL, 2 * BEAT_INTERVAL, 3 * BEAT_INTERVAL]
    watch.beat()
    assert watch.silent_for(12.0) == 0
    watch.close()


def test_a_late_look_is_not_taken_for_silence() -> None:
    """A supervisor that stood still for an hour knows nothing of its workers in that hour."""
    watch = LoopWatch()
    watch.beat()
    watch.silent_for(10.0)
    assert watch.silent_for(3610.0) <= 4 * BEAT_INTERVAL
    watch.close()


def write_stacks(watch: LoopWatch) -> NoReturn:
    """In a child: as a worker that is asked to, and is gone then."""
    watch.begin()
    for number in STACKS_SIGNALS:
        os.kill(os.getpid(), number)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # from Python 3.12 on, beside threads
def test_the_next_worker_begins_anew() -> None:
    """Neither the silence of the last one nor its stacks are its own."""
    watch = LoopWatch()
    worker = os.fork()  # as the supervisor does; of this process other tests have threads, and a hundred are written
    if worker == 0:
        write_stacks(watch)
    assert os.waitpid(worker, 0) == (worker, 0)
    assert "test_the_next_worker_begins_anew" in watch.stacks()[0]
    watch.silent_for(10.0)
    assert watch.silent_for(11.0) > 0
    watch.reset()
    assert watch.stacks() == []
    assert watch.silent_for(12.0) == 0
    watch.close()


def deep(frames: int, then: Callable[[], None]) -> None:
    """Call something so many frames deeper."""
    if frames:
        deep(frames - 1, then)
    else:
        then()


def wait_in_threads(count: int, frames: Callable[[int], int]) -> None:
    """Start threads that wait for ever, each so many frames deep; returns when they do."""
    never = threading.Event()
    there = threading.Barrier(count + 1)

    def rest() -> None:
        there.wait()
        never.wait()

    for number in range(count):
        threading.Thread(target=deep, args=(frames(number), rest), daemon=True).start()
    there.wait()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_the_loop_comes_first_however_many_threads_there_are() -> None:
    """`faulthandler` writes a hundred threads, and the first of a process is not among them."""
    watch = LoopWatch()
    worker = os.fork()
    if worker == 0:
        wait_in_threads(130, lambda number: 0)
        write_stacks(watch)
    assert os.waitpid(worker, 0) == (worker, 0)
    loop, _, others = watch.stacks()[0].partition(" threads:\n")
    assert "test_the_loop_comes_first_however_many_threads_there_are" in loop
    assert "in rest" in others
    assert others.count("in rest") < 50, "threads at the same place are one stack"
    watch.close()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_stacks_of_more_than_one_line_of_the_log() -> None:
    """Each text fits into a line, and none of them is missing."""
    watch = LoopWatch()
    worker = os.fork()
    if worker == 0:
        wait_in_threads(40, lambda number: 30 + number)  # each at a place of its own
        write_stacks(watch)
    assert os.waitpid(worker, 0) == (worker, 0)
    texts = watch.stacks()
    assert len(texts) > 1
    assert max(map(len, texts)) < 64 * 1024
    assert sum(text.count("a thread:\n") for text in texts) == 40
    assert "test_stacks_of_more_than_one_line_of_the_log" in texts[0]
    watch.close()
