"""The parent of a node's processes: forks the gateway and the workers, reaps them, and starts them again.

It owns what must outlive them: the listening sockets, and both ends of the socket pairs, so that messages queued for a
dead process can be given to another. It has no event loop and no threads, and never does network I/O, so that little in
it can fail. If the node has a Redis of its own, that is a child as well: the first to be started and the last to be
stopped.

It waits in one `select` for: signals (through a `SignalQueue`), a byte from each worker that has booted and one from
each that wants to retire, messages of the gateway, and messages that a gateway still sends to a dead worker because it
has not processed the `WorkerDown` yet.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence

from aperture.bus.embedded import EmbeddedServer
from aperture.config.settings import Settings
from aperture.descriptors import raise_limit
from aperture.errors import ConfigurationError, ExitCode
from aperture.gateway.front.tls import server_context
from aperture.gateway.supervise.bind import unlink_socket_file
from aperture.gateway.supervise.children import Child, exit_code_of
from aperture.gateway.supervise.node_sockets import NodeSockets
from aperture.gateway.supervise.restarts import RestartCounts
from aperture.gateway.supervise.rolling import RollingRestart
from aperture.gateway.supervise.shutdown import Shutdown
from aperture.gateway.supervise.signals import SignalQueue
from aperture.gateway.supervise.stuck import DUMP_TIME, STACKS_SIGNALS, LoopWatch
from aperture.log_scope import name_node, name_process
from aperture.metrics import MetricsDirectory
from aperture.wire.endpoint import Endpoint, datagram_pair
from aperture.wire.node_messages import Adopt, Drain, Draining, HandBack, NodeMessage, NodeReady, WorkerDown
from aperture.wire.seats import BEAT_INTERVAL, GatewaySeat, WorkerSeat

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

MAX_FAILED_BOOTS = 3
"""When every worker has failed to boot so many times in a row, and none lives, further restarts are pointless."""

POLL_INTERVAL = 0.5
"""Seconds between calls of `poll`: short enough for a developer who has just saved a file."""

PROCESS_ONE = 1

SIGNALS = ("SIGCHLD", "SIGTERM", "SIGINT", "SIGHUP")

_BOOTED = b"!"
_RETIRES = b"-"
"""What a worker may send to the supervisor."""


class _Worker(Child):
    """A slot for a worker: its process, and both ends of its pair with the gateway."""

    def __init__(self, index: int, exit_time: float) -> None:
        super().__init__(f"worker {index}", exit_time)
        self.index = index
        self.gateway_end, self.worker_end = datagram_pair()
        self.inbox = Endpoint(self.worker_end)
        self.pipe: int | None = None
        """On which the worker reports that it has booted, and later perhaps that it wants to retire."""
        self.retire_by: float | None = None
        """Set while this generation is being replaced in an orderly way: when it is killed."""
        self.loop = LoopWatch()
        self.dump_until: float | None = None
        """Set while a stuck worker writes its stacks: when it is killed."""
        self.given_up = False
        """`WorkerDown` has been sent, and messages that the gateway still sends are returned to it."""


class _Repeated:
    """Something that the supervisor does again and again while the node serves.

    Args:
        interval: seconds between two times.
        act: does it; gets the time.
    """

    def __init__(self, interval: float, act: Callable[[float], None]) -> None:
        self._interval = interval
        self._act = act
        self.due_at = 0.0

    def run_if_due(self, now: float) -> None:
        if now >= self.due_at:
            self.due_at = now + self._interval
            self._act(now)


class Supervisor:
    """Runs one node until it is stopped, or cannot continue.

    Args:
        settings: the node's settings, with `num_procs` resolved to 1 or more.
        listeners: listening sockets of the app port; owned by the supervisor from here on.
        admin_listeners: listening sockets of the admin port, likewise.
        worker_main: a worker's main; runs in each worker's process, and returns its exit code.
        gateway_main: the gateway's main; runs in the gateway's process, and returns its exit code.
        on_ready: called in the supervisor when the node serves for the first time, with the admin port.
        poll: called every half second; the node shuts down when it returns True (`--dev`).
        bus_server: the Redis that belongs to the node, if it has one; closed by the supervisor.
        metrics: where the processes share their numbers, if they do; removed by the supervisor.
        adopts_orphans: whether the kernel gives orphaned processes to this one, as it does to process 1 of a container;
            they are reaped then. By default, whether this is process 1.

    Raises:
        ConfigurationError: this platform cannot fork, or the certificate cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        admin_listeners: Sequence[socket.socket],
        worker_main: Callable[[WorkerSeat], int],
        gateway_main: Callable[[GatewaySeat], int],
        *,
        on_ready: Callable[[int | None], None] = lambda admin_port: None,
        poll: Callable[[], bool] | None = None,
        bus_server: EmbeddedServer | None = None,
        metrics: MetricsDirectory | None = None,
        adopts_orphans: bool | None = None,
    ) -> None:
        if not hasattr(os, "fork"):
            raise ConfigurationError("aperture serve needs fork(), which this platform lacks; use Linux or macOS")
        if settings.tls is not None:
            server_context(settings.tls)  # a bad certificate is reported here, not by a child that dies of it
        self._settings = settings
        self._sockets = NodeSockets(listeners, admin_listeners)
        self._worker_main = worker_main
        self._gateway_main = gateway_main
        self._on_ready = on_ready
        self._repeated = [] if poll is None else [_Repeated(POLL_INTERVAL, lambda now: self._stop_if(poll()))]
        if settings.max_callback_seconds:
            self._repeated.append(_Repeated(BEAT_INTERVAL, self._watch_loops))
        self._bus_server = bus_server
        self._restarts = RestartCounts(metrics)
        self._adopts_orphans = os.getpid() == PROCESS_ONE if adopts_orphans is None else adopts_orphans
        self._redis = Child("redis", settings.shutdown_grace)
        self._gateway = Child("gateway", settings.shutdown_grace)
        self._workers = [_Worker(index, settings.shutdown_grace) for index in range(settings.num_procs)]
        self._control = Endpoint(self._sockets.control_end, on_blocked=self._watch_control)
        self._signals = SignalQueue(SIGNALS)
        self._selector = selectors.DefaultSelector()
        self._rolling: RollingRestart[_Worker] = RollingRestart()
        self._started = False
        self._ready = False
        self._shutdown = Shutdown()

    def run(self) -> ExitCode:
        """Start the node and keep it running; returns when every process of it has ended. Main thread only."""
        name_process("supervisor")
        name_node(self._settings.node)
        self._signals.open()
        try:
            self._start()
            while not self._shutdown.begun or self._alive():
                self._wait()
                self._tick(time.monotonic())
        finally:
            self._clean_up()
        return self._shutdown.exit_code

    # Starting

    def _start(self) -> None:
        raise_limit()
        self._selector.register(self._signals, selectors.EVENT_READ, self._dispatch_signals)
        self._selector.register(self._sockets.control_end, selectors.EVENT_READ, self._handle_gateway)
        # Pages are shared by all children until one writes to them, and a garbage collection writes to every object.
        gc.collect()
        gc.freeze()
        if self._bus_server is not None and not self._start_redis(self._bus_server):
            return
        for worker in self._workers:
            self._fork_worker(worker)
        self._fork_gateway()

    def _start_redis(self, server: EmbeddedServer) -> bool:
        """Start the node's Redis and wait until it answers; takes milliseconds."""
        self._fork_redis(server)
        if server.wait_ready(lambda: self._redis.reap() is not None):
            return True
        log.error("the node's own Redis does not start: %s", server.last_words() or "it said nothing")
        self._stop(ExitCode.NO_BUS)
        return False

    def _fork_redis(self, server: EmbeddedServer) -> None:
        self._redis.fork(lambda: self._let_go(keep=(), keep_bus=True), server.run)
        self._redis.boot()  # it sends no byte when it serves; workers retry until it does

    def _fork_worker(self, worker: _Worker) -> None:
        if self._bus_server is not None:
            self._bus_server.hold()
        if worker.given_up:
            worker.given_up = False
            self._selector.unregister(worker.worker_end)
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)  # a process that the worker leaves behind may hold the other end open

        def say(word: bytes) -> None:
            with contextlib.suppress(OSError):  # the supervisor is gone
                os.write(write_end, word)

        def prepare() -> None:
            os.close(read_end)
            self._let_go(keep=(worker.worker_end,))

        seat = WorkerSeat(
            worker.index,
            worker.generation + 1,
            worker.worker_end,
            self._sockets.lifeline,
            booted=lambda: say(_BOOTED),
            retire=lambda: say(_RETIRES),
            pipe=write_end,
            watched=worker.loop.begin,
            beat=worker.loop.beat,
        )
        worker.retire_by = worker.dump_until = None
        worker.loop.reset()
        worker.fork(prepare, lambda: self._worker_main(seat))
        if worker.generation > 0:
            self._restarts.note_worker_restart()
        os.close(write_end)
        worker.pipe = read_end
        self._selector.register(read_end, selectors.EVENT_READ, lambda: self._handle_worker(worker))

    def _fork_gateway(self) -> None:
        links = tuple(worker.gateway_end for worker in self._workers)
        sockets = self._sockets
        seat = GatewaySeat(
            sockets.listeners,
            sockets.admin_listeners,
            links,
            sockets.gateway_control_end,
            sockets.lifeline,
            tuple(worker.generation for worker in self._workers),
            os.getpid(),
        )
        self._gateway.fork(lambda: self._let_go((*sockets.of_gateway, *links)), lambda: self._gateway_main(seat))
        if self._gateway.generation > 0:
            self._restarts.note_gateway_restart()

    def _let_go(self, keep: Sequence[socket.socket], *, keep_bus: bool = False) -> None:
        """In a child, right after the fork: close what belongs to the supervisor or to another child."""
        if self._bus_server is not None and not keep_bus:
            self._bus_server.let_go()
        self._signals.abandon()
        self._selector.close()
        self._sockets.cut_lifeline()
        for worker in self._workers:
            if worker.pipe is not None:
                os.close(worker.pipe)
        kept = {id(sock) for sock in keep}
        for sock in (*self._sockets.all, *self._pair_ends()):
            if id(sock) not in kept:
                sock.close()

    def _pair_ends(self) -> list[socket.socket]:
        return [end for worker in self._workers for end in (worker.gateway_end, worker.worker_end)]

    # Waiting

    def _wait(self) -> None:
        for key, events in self._selector.select(self._patience()):
            if events & selectors.EVENT_WRITE:
                self._control.flush()
            if events & selectors.EVENT_READ:
                key.data()

    def _patience(self) -> float | None:
        """Seconds until something is due; None if only an event can change anything."""
        due = [child.restart_at for child in self._children() if child.restart_at is not None]
        due += [worker.retire_by for worker in self._workers if worker.retire_by is not None]
        due += self._shutdown.due()
        due += [] if self._shutdown.begun else [repeated.due_at for repeated in self._repeated]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _tick(self, now: float) -> None:
        """Do what has become due."""
        shutdown = self._shutdown
        if shutdown.kill_at is not None and now >= shutdown.kill_at:
            self._kill_all()
        if shutdown.close_at is not None and now >= shutdown.close_at:
            self._close()
        for repeated in self._repeated:
            if not shutdown.begun:
                repeated.run_if_due(now)
        if shutdown.begun:
            self._stop_the_rest()
            return
        for worker in self._workers:
            if worker.restart_at is not None and now >= worker.restart_at:
                self._fork_worker(worker)
            if worker.retire_by is not None and now >= worker.retire_by:
                worker.retire_by = now + self._settings.shutdown_grace
                worker.kill(signal.SIGKILL)
        if self._gateway.restart_at is not None and now >= self._gateway.restart_at:
            self._fork_gateway()
        if self._bus_server is not None and self._redis.restart_at is not None and now >= self._redis.restart_at:
            self._fork_redis(self._bus_server)

    def _stop_if(self, stops: bool) -> None:
        if stops:
            self._stop(ExitCode.OK)

    def _watch_loops(self, now: float) -> None:
        """End the workers whose event loops are stuck for too long; their stacks come first."""
        for worker in self._workers:
            if worker.dump_until is not None and now >= worker.dump_until:
                worker.dump_until = None
                for stacks in worker.loop.stacks() or ["it wrote no stacks"]:
                    log.error("%s was stuck, and is killed:\n%s", worker.name, stacks)
                worker.kill(signal.SIGKILL)
            elif worker.pid is not None and worker.booted_at is not None and worker.retire_by is None:
                silent = worker.loop.silent_for(now)
                if silent > self._settings.max_callback_seconds and worker.dump_until is None:
                    log.error("the event loop of %s (pid %d) is stuck for %.1f s", worker.name, worker.pid, silent)
                    worker.dump_until = now + DUMP_TIME
                    for number in STACKS_SIGNALS:
                        worker.kill(number)

    def _dispatch_signals(self) -> None:
        for number in self._signals.take():
            getattr(self, f"handle_{number.name.removeprefix('SIG').lower()}")()

    # Signals

    def handle_chld(self) -> None:
        """Reap ended children, each by its pid, so that children of other code in this process are left alone."""
        for worker in self._workers:
            if (returncode := worker.reap()) is not None:
                self._restarts.note_worker(worker.index, failed=returncode != 0 and worker.retire_by is None)
                self._on_worker_end(worker, returncode)
        if (returncode := self._gateway.reap()) is not None:
            self._on_gateway_end(returncode)
        if (returncode := self._redis.reap()) is not None and not self._shutdown.begun:
            self._schedule(self._redis, returncode)
        if self._adopts_orphans:
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Reap orphans given to this process: programs that app code started and did not wait for.

        `waitid` with WNOWAIT looks before it reaps: an ended child of our own must be left for `handle_chld`, which
        stops the loop; its own SIGCHLD is pending.
        """
        own = {child.pid for child in self._children()}
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, look)) is not None and ended.si_pid not in own:
                os.waitpid(ended.si_pid, 0)

    def handle_term(self) -> None:
        """Shut down; kill at once on a second request."""
        if not self._shutdown.begun:
            log.info("stopping")
            self._stop(ExitCode.OK, delay=self._settings.drain_delay)
        elif self._shutdown.is_second_request(time.monotonic()):
            # During the drain delay a second signal may only mean "skip the delay", so it does not kill.
            self._close() if self._shutdown.unready else self._kill_all()

    def handle_int(self) -> None:
        """Ctrl-C."""
        self.handle_term()

    def handle_hup(self) -> None:
        """Replace the workers, one after the other. During a replacement, or at the start, do it afterwards."""
        if self._shutdown.begun or len(self._rolling) > len(self._workers):
            return
        log.info("replacing the workers one by one")
        self._rolling.extend(self._workers)
        self._roll()

    # Workers

    def _handle_worker(self, worker: _Worker) -> None:
        if worker.pipe is None:
            return  # read a moment ago, when the worker was reaped in the same turn of the loop
        try:
            received = os.read(worker.pipe, 2)
        except BlockingIOError:
            return
        if not received:
            self._close_pipe(worker)
        if _BOOTED in received:
            self._handle_booted(worker)
        if _RETIRES in received and not self._shutdown.begun:
            self._retire(worker)

    def _handle_booted(self, worker: _Worker) -> None:
        worker.boot()
        self._started = self._started or all(other.booted_at is not None for other in self._workers)
        self._rolling.note_booted(worker)
        self._roll()

    def _roll(self) -> None:
        """Replace the next worker, if possible now."""
        worker = self._rolling.next
        if worker is None or not self._started or self._shutdown.begun:
            return
        if worker.pid is not None and worker.booted_at is None:
            return  # it may have loaded the apps before the change, and cannot retire before it serves
        self._rolling.begin()
        if worker.pid is not None:
            self._retire(worker)

    def _stop_rolling(self) -> None:
        left = self._rolling.give_up()
        if left:
            log.warning("rolling restart given up: %d worker(s) are not replaced any more", left)

    def _retire(self, worker: _Worker) -> None:
        if worker.retire_by is not None or worker.booted_at is None:
            return
        worker.retire_by = time.monotonic() + self._settings.shutdown_grace
        worker.kill(signal.SIGTERM)
        # It takes seconds to close its browsers' connections; new connections must not wait for that.
        self._give_up(worker)

    def _on_worker_end(self, worker: _Worker, returncode: int) -> None:
        self._handle_worker(worker)  # it may have booted and died since the pipe was last read
        self._close_pipe(worker)
        retired = worker.retire_by is not None
        worker.retire_by = None
        if self._shutdown.begun and not self._shutdown.unready:
            return
        self._give_up(worker)
        if self._shutdown.begun:
            return
        if worker.booted_at is None and self._cannot_boot(worker, returncode):
            self._stop(exit_code_of(returncode))
            return
        self._schedule(worker, returncode, at_once=retired)

    def _cannot_boot(self, worker: _Worker, returncode: int) -> bool:
        if not self._started:
            log.error("%s ended with %s before it served: the node cannot start", worker.name, _ending(returncode))
            return True
        self._stop_rolling()
        if all(other.failed_boots >= MAX_FAILED_BOOTS for other in self._workers):
            log.error("no worker can boot any more (%s)", _ending(returncode))
            return True
        return False

    def _give_up(self, worker: _Worker) -> None:
        if worker.given_up:
            return
        worker.given_up = True
        self._control.send(WorkerDown(worker.index, worker.generation))
        self._selector.register(worker.worker_end, selectors.EVENT_READ, lambda: self._forward(worker))
        self._forward(worker)

    def _forward(self, worker: _Worker) -> None:
        """Return the connections queued for a dead worker to the gateway."""
        for message, passed in worker.inbox.receive():
            if isinstance(message, Adopt | HandBack) and passed is not None:
                self._control.send(HandBack(message.head, message.peer, message.tls), passed)

    # The gateway

    def _handle_gateway(self) -> None:
        for message, passed in self._control.receive():
            self._handle(message, passed)

    def _handle(self, message: NodeMessage, passed: socket.socket | None) -> None:
        if isinstance(message, NodeReady):
            self._gateway.boot()
            if not self._ready and not self._shutdown.begun:
                self._ready = True
                self._on_ready(message.admin_port)
            return
        if isinstance(message, Draining):
            if self._shutdown.unready and not self._shutdown.delayed:
                self._close()
            return
        log.error("unexpected message from the gateway, dropped: %s", type(message).__name__)
        if passed is not None:
            passed.close()

    def _on_gateway_end(self, returncode: int) -> None:
        if self._shutdown.begun:
            if self._shutdown.unready:
                self._close()  # without a gateway, no probe is answered and no connection routed: no reason to delay
            return
        if not self._ready and self._gateway.failed_boots >= MAX_FAILED_BOOTS:
            log.error("the gateway ended with %s again: the node cannot start", _ending(returncode))
            self._stop(exit_code_of(returncode))
            return
        self._schedule(self._gateway, returncode)

    def _watch_control(self, blocked: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0)
        self._selector.modify(self._sockets.control_end, events, self._handle_gateway)

    # Stopping

    def _stop(self, outcome: ExitCode, *, delay: float = 0.0) -> None:
        """Become unready; close after the delay, and not before the gateway reports that it is unready.

        Args:
            outcome: the exit code.
            delay: seconds in which the node goes on serving: load balancers learn of its end with a delay.
        """
        self._shutdown.begin(outcome, time.monotonic(), delay)
        self._rolling.give_up()
        for child in self._children():
            child.restart_at = None
        self._control.send(Drain(closing=False))
        if self._gateway.pid is None or outcome is not ExitCode.OK:
            self._close()  # the gateway is not there to report, or the node never served

    def _close(self) -> None:
        """Stop accepting, and stop the workers; those that have not ended after the grace period are killed."""
        self._shutdown.close(time.monotonic(), self._settings.shutdown_grace)
        self._control.send(Drain(closing=True))
        self._sockets.stop_listening()
        for worker in self._workers:
            worker.kill(signal.SIGTERM)
        self._stop_the_rest()

    def _stop_the_rest(self) -> None:
        """The gateway ends after the workers, and Redis after all that use it."""
        if self._shutdown.unready or any(worker.pid is not None for worker in self._workers):
            return
        if self._gateway.pid is not None:
            if not self._shutdown.gateway_notified:
                self._shutdown.gateway_notified = True
                self._gateway.kill(signal.SIGTERM)
        elif self._redis.pid is not None:
            self._redis.kill(signal.SIGTERM)

    def _kill_all(self) -> None:
        self._shutdown.kill()
        for child in self._children():
            if child is self._redis:
                child.kill(signal.SIGKILL)  # it stores nothing on disk, and was deliberately left to the last
            elif child.pid is not None:
                log.warning("%s (pid %d) has not ended in time and is killed", child.name, child.pid)
                self._shutdown.killed_any = True
                child.kill(signal.SIGKILL)

    def _alive(self) -> bool:
        return any(child.pid is not None for child in self._children())

    def _clean_up(self) -> None:
        """Release everything, also when the supervisor itself has failed."""
        for child in self._children():
            if child.pid is not None:
                child.kill(signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = None
        gc.unfreeze()
        self._signals.close()
        self._selector.close()
        for worker in self._workers:
            if worker.pipe is not None:
                os.close(worker.pipe)
                worker.pipe = None
            worker.loop.close()
        self._control.close()
        for end in self._pair_ends():
            end.close()
        self._sockets.close()
        unlink_socket_file(self._settings)
        if self._bus_server is not None:
            self._bus_server.close()
        self._restarts.close()

    # Children in general

    def _children(self) -> list[Child]:
        return [*self._workers, self._gateway, self._redis]

    def _schedule(self, child: Child, returncode: int, *, at_once: bool = False) -> None:
        delay = child.schedule(at_once=at_once)
        when = f"in {delay:.1f} s" if delay else "at once"
        log.log(
            logging.INFO if at_once else logging.WARNING,
            "%s ended with %s; the next one starts %s",
            child.name,
            _ending(returncode),
            when,
        )

    def _close_pipe(self, worker: _Worker) -> None:
        if worker.pipe is not None:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = None


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
