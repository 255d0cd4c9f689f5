"""A whole node, put together: sockets, a Redis of its own if it needs one, what the workers share, the supervisor.

The command line and `aperture.Server` come here with different settings and different apps. Nothing here starts a
thread or a loop, and `NodeSockets.open` forks nothing yet: whoever calls it can tell which port it got.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aperture import tracing
from aperture.config.settings import Durability, Settings

if TYPE_CHECKING:
    from aperture.bus.embedded import EmbeddedServer
    from aperture.gateway.supervise.supervisor import Supervisor
    from aperture.metrics import MetricsDirectory

__all__ = ["NodeSockets", "make_supervisor", "node_name"]

log = logging.getLogger(__name__)


def node_name() -> str:
    """A new name for a node: containers may share a host name, and each of their supervisors is process 1."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class NodeSockets:
    """What a node listens on, before it has any process.

    Args:
        settings: with the node's name, and the port that the kernel has chosen if any would do.
        listeners: of the app port.
        admin_listeners: of the admin port.
    """

    settings: Settings
    listeners: tuple[socket.socket, ...]
    admin_listeners: tuple[socket.socket, ...]

    @classmethod
    def open(cls, settings: Settings) -> NodeSockets:
        """Listen.

        Raises:
            OSError: an address is taken, or not ours to use; the text says which.
        """
        from aperture.gateway.supervise.bind import bind_listeners

        listeners, admin_listeners = bind_listeners(settings)
        named = dataclasses.replace(_with_bound_port(settings, listeners), node=node_name())
        return cls(named, tuple(listeners), tuple(admin_listeners))

    def close(self) -> None:
        """Listen no more, where no supervisor has taken over."""
        from aperture.gateway.supervise.bind import unlink_socket_file

        for listener in (*self.listeners, *self.admin_listeners):
            listener.close()
        unlink_socket_file(self.settings)


def _with_bound_port(settings: Settings, listeners: Sequence[socket.socket]) -> Settings:
    """With port 0 the kernel has chosen, and the origin that browsers send names what it chose."""
    if settings.unix_socket is not None or settings.port != 0:
        return settings
    return dataclasses.replace(settings, port=listeners[0].getsockname()[1])


def make_supervisor(
    sockets: NodeSockets,
    run_worker: Callable[..., int],
    *,
    files: Sequence[str] = (),
    on_ready: Callable[[Settings, int | None], None] = lambda settings, admin_port: None,
    poll: Callable[[], bool] | None = None,
) -> Supervisor:
    """The supervisor of a node; what all workers need is imported by then. Its `run` forks.

    Args:
        sockets: the supervisor's from here on.
        run_worker: a worker's main function, which is given its seat and, by name, the settings.
        files: of the apps, to import ahead what they import.
        on_ready: called in the supervisor once every worker serves, with the admin port.
        poll: called every half second; the node stops in good order when it returns True.

    Raises:
        ConfigurationError: this platform cannot fork, or the certificate cannot be used.
    """
    settings, bus_server = _with_bus(sockets.settings)
    from aperture.gateway.supervise.preload import preload

    preload(files, foreign=sockets.settings.preload)
    tracing.prepare(os.environ)
    from aperture.gateway.gateway import gateway_main
    from aperture.gateway.supervise.supervisor import Supervisor

    settings, metrics = _with_metrics(settings, among_nodes=sockets.settings.redis_url is not None)

    def clean_up() -> None:
        if metrics is not None:
            metrics.remove()
        if bus_server is not None:
            bus_server.close()

    return Supervisor(
        settings,
        sockets.listeners,
        sockets.admin_listeners,
        partial(run_worker, settings=settings),
        partial(gateway_main, settings=settings, clean_up=clean_up),
        on_ready=partial(on_ready, settings),
        poll=poll,
        bus_server=bus_server,
        metrics=metrics,
    )


def _with_metrics(settings: Settings, *, among_nodes: bool) -> tuple[Settings, MetricsDirectory | None]:
    """A place for the metrics of all processes, if anybody can ask for them, be it another node's dashboard."""
    asked = settings.admin_port is not None or settings.dashboard or among_nodes
    if not settings.metrics or not asked:
        return dataclasses.replace(settings, metrics=False), None
    from aperture.metrics import MetricsDirectory

    try:
        metrics = MetricsDirectory()
    except OSError as problem:
        log.warning("no metrics: there is no room for them in the folder for temporary files (%s)", problem)
        return dataclasses.replace(settings, metrics=False, dashboard=False), None
    return dataclasses.replace(settings, metrics_dir=str(metrics.path)), metrics


def _with_bus(settings: Settings) -> tuple[Settings, EmbeddedServer | None]:
    """A Redis of the node's own, if it was given none and has workers that need one to talk to each other."""
    alone = settings.num_procs == 1 and settings.durability is Durability.NONE
    if settings.redis_url is not None or alone:
        return settings, None
    from aperture.bus.embedded import EmbeddedServer

    server = EmbeddedServer.choose()
    if server is None:
        log.warning("without redis-server each session stays on one worker, however many look at it; install it")
        return settings, None
    # It has no password, and a worker that starts while it is being started again waits for it.
    own = dataclasses.replace(
        settings, redis_url=server.url, redis_held=server.held, redis_password=None, redis_wait=True
    )
    return own, server
