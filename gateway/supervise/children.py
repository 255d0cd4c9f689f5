"""One child process: its fork, its life after it, and how it ended.

Runs in the supervisor; `_live` is the only function here that runs in the child.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable
from typing import NoReturn

from aperture.errors import ExitCode
from aperture.gateway.supervise.backoff import Backoff
from aperture.gateway.supervise.signals import signals_blocked
from aperture.log_scope import name_process

__all__ = ["Child", "exit_code_of"]

log = logging.getLogger(__name__)


def exit_code_of(returncode: int) -> ExitCode:
    """The node's exit code for a child's failure. A signal, or a code that is not ours, is an internal failure."""
    if returncode in (ExitCode.USAGE, ExitCode.CANNOT_BIND, ExitCode.APP_BROKEN, ExitCode.NO_BUS):
        return ExitCode(returncode)
    return ExitCode.INTERNAL


class Child:
    """A slot for a child process: which process runs in it, and when the next one may start.

    Args:
        name: for the log.
        exit_time: seconds that exit handlers may take.
    """

    def __init__(self, name: str, exit_time: float) -> None:
        self.name = name
        self._exit_time = exit_time
        self.pid: int | None = None
        self.generation = -1
        self.booted_at: float | None = None
        self.restart_at: float | None = None
        self.failed_boots = 0
        """How many times in a row it died before it had booted."""
        self._backoff = Backoff()

    def fork(self, prepare: Callable[[], None], run: Callable[[], int]) -> None:
        """Start the next generation.

        Args:
            prepare: called first in the child, with signals blocked; closes what belongs to the supervisor.
            run: the child's work; its result is the exit code.
        """
        self.generation += 1
        self.booted_at = None
        self.restart_at = None
        _flush()  # text buffered by the parent would otherwise be written by the child as well
        with signals_blocked() as blocked:
            pid = os.fork()
            if pid == 0:
                name_process(self.name)
                _live(prepare, blocked.release, run, self._exit_time)
        self.pid = pid

    def boot(self) -> None:
        """Record that the child serves."""
        self.booted_at = time.monotonic()
        self.failed_boots = 0

    def reap(self) -> int | None:
        """The return code (negative: the signal) of a child that has ended, else None."""
        if self.pid is None:
            return None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self.pid, 0  # other code in this process has reaped it
        if pid == 0:
            return None
        self.pid = None
        if self.booted_at is None:
            self.failed_boots += 1
        return os.waitstatus_to_exitcode(status)

    def schedule(self, *, at_once: bool = False) -> float:
        """Decide when the next generation starts; returns the delay in seconds."""
        now = time.monotonic()
        lived = 0.0 if self.booted_at is None else now - self.booted_at
        delay = 0.0 if at_once else self._backoff.delay(lived)
        self.restart_at = now + delay
        return delay

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, if a process runs."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _live(
    prepare: Callable[[], None], unblock: Callable[[], None], run: Callable[[], int], exit_time: float
) -> NoReturn:
    """The whole life of a child. Leaves with `os._exit`, after the exit handlers registered since the fork."""
    code: int = ExitCode.INTERNAL
    try:
        _disown_exit_handlers()
        prepare()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
        unblock()
        code = int(run())
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        log.exception("process %d has failed", os.getpid())
    finally:
        with contextlib.suppress(BaseException):
            _run_exit_handlers(exit_time)
        with contextlib.suppress(Exception):
            logging.shutdown()
        _flush()
        os._exit(code)


def _disown_exit_handlers() -> None:
    """Drop the parent's exit handlers: run in a child, they would remove the parent's files."""
    atexit._clear()
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    # It registers itself only once per process; without this, temporary folders made from here on would not be removed.
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]


def _run_exit_handlers(most: float) -> None:
    """Run the exit handlers with a time limit: the supervisor waits without one for a child that it has not stopped."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, most)
    atexit._run_exitfuncs()
    signal.setitimer(signal.ITIMER_REAL, 0)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the stream is closed, or a pipe without a reader
            stream.flush()
