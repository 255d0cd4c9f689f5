"""Assembles a whole node: sockets, a Redis of its own if it needs one, what the workers share, the supervisor.

The command line and `aperture.Server` call this with different settings and apps. Nothing here starts a thread or an
event loop, and `NodeSockets.open` does not fork: its caller can report the bound port first.
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
    """A new name for a node. Containers may share a host name, and in each the supervisor is process 1: so it is
    random."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class NodeSockets:
    """The listening sockets of a node, before it has any process.

    Args:
        settings: with the node's name, and the bound port in place of port 0.
        listeners: of the app port.
        admin_listeners: of the admin port.
    """

    settings: Settings
    listeners: tuple[socket.socket, ...]
    admin_listeners: tuple[socket.socket, ...]

    @classmethod
    def open(cls, settings: Settings) -> NodeSockets:
        """Bind and listen.

        Raises:
            OSError: an address is taken, or binding it is not permitted; the text says which.
        """
        from aperture.gateway.supervise.bind import bind_listeners

        listeners, admin_listeners = bind_listeners(settings)
        named = dataclasses.replace(_with_bound_port(settings, listeners), node=node_name())
        return cls(named, tuple(listeners), tuple(admin_listeners))

    def close(self) -> None:
        """Stop listening, if no supervisor has taken the sockets over."""
        from aperture.gateway.supervise.bind import unlink_socket_file

        for listener in (*self.listeners, *self.admin_listeners):
            listener.close()
        unlink_socket_file(self.settings)


def _with_bound_port(settings: Settings, listeners: Sequence[socket.socket]) -> Settings:
    """Replaces port 0 by the port that the kernel chose, also in the allowed origins."""
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
    """Make the supervisor of a node; the modules that all workers need are imported by then. Its `run` forks.

    Args:
        sockets: owned by the supervisor from here on.
        run_worker: a worker's main function; called with its seat, and the settings by name.
        files: of the apps; what they import is imported before the fork.
        on_ready: called in the supervisor once every worker serves, with the admin port.
        poll: called every half second; the node shuts down when it returns True.

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
    """A directory for the metrics of all processes, if an admin port or another node's dashboard can ask for them."""
    asked = settings.admin_port is not None or settings.dashboard or among_nodes
    if not settings.metrics or not asked:
        return dataclasses.replace(settings, metrics=False), None
    from aperture.metrics import MetricsDirectory

    try:
        metrics = MetricsDirectory()
    except OSError as problem:
        log.warning("metrics are off: no room in the folder for temporary files (%s)", problem)
        return dataclasses.replace(settings, metrics=False, dashboard=False), None
    return dataclasses.replace(settings, metrics_dir=str(metrics.path)), metrics


def _with_bus(settings: Settings) -> tuple[Settings, EmbeddedServer | None]:
    """Starts a Redis for the node if none is configured and it has several workers, which talk to each other over
    it."""
    alone = settings.num_procs == 1 and settings.durability is Durability.NONE
    if settings.redis_url is not None or alone:
        return settings, None
    from aperture.bus.embedded import EmbeddedServer

    server = EmbeddedServer.choose()
    if server is None:
        log.warning("redis-server is not installed: each session stays on one worker, whatever its number of viewers")
        return settings, None
    # It has no password, and workers that start while it restarts wait for it.
    own = dataclasses.replace(
        settings, redis_url=server.url, redis_held=server.held, redis_password=None, redis_wait=True
    )
    return own, server
