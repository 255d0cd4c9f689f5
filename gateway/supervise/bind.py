"""Opens the sockets that a node listens on. Runs in the supervisor, before anything is forked.

The supervisor keeps them open for as long as the node lives: while a gateway is being restarted, new connections wait
in the kernel's backlog instead of being refused.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat

from aperture.config.settings import Settings

__all__ = ["bind_listeners", "unlink_socket_file"]

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait while a gateway restarts; the kernel caps it at net.core.somaxconn."""

_ANY_PORT_ATTEMPTS = 16
"""A port that is free for IPv4 may be taken for IPv6; then the kernel is asked for another one."""

_ALL = "*"
"""`0.0.0.0` is IPv4 alone and `::` IPv6 alone, so neither works in a file that is used on every kind of cluster."""

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def bind_listeners(settings: Settings) -> tuple[list[socket.socket], list[socket.socket]]:
    """Bind the app port and the admin port; returns non-blocking listening sockets.

    Raises:
        OSError: an address is taken, or binding it is not permitted; the errno and the text say which.
    """
    if settings.unix_socket is not None:
        listeners = [_listen_unix(settings.unix_socket)]
    else:
        listeners = _listen_tcp(settings.address, settings.port)
    try:
        admin = _listen_admin(settings)
    except OSError:
        _close(listeners)
        raise
    return listeners, admin


def _listen_admin(settings: Settings) -> list[socket.socket]:
    if settings.admin_port is None:
        return []
    try:
        return _listen_tcp(settings.admin_address, settings.admin_port)
    except OSError as problem:
        if problem.errno != errno.EADDRINUSE or settings.admin_port_stated:
            raise
    # This is the default port, which the user did not ask for: a second server beside the first must still start.
    listeners = _listen_tcp(settings.admin_address, 0)
    log.warning(
        "port %d is taken: the admin endpoints are at port %d; --admin-port states which",
        settings.admin_port,
        listeners[0].getsockname()[1],
    )
    return listeners


def unlink_socket_file(settings: Settings) -> None:
    """Remove the unix socket's file when the node that made it ends."""
    if settings.unix_socket is not None:
        with contextlib.suppress(OSError):
            os.unlink(settings.unix_socket)


def _listen_tcp(address: str | None, port: int) -> list[socket.socket]:
    attempts = _ANY_PORT_ATTEMPTS if port == 0 else 1
    while True:
        attempts -= 1
        try:
            return _listen_everywhere(address, port)
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE or not attempts:
                raise _named(problem, f"{address or '*'}:{port}") from problem


def _listen_everywhere(address: str | None, port: int) -> list[socket.socket]:
    """One socket for each address that the name stands for, all on one port; none or `*` means all of this machine."""
    found = socket.getaddrinfo(
        None if address == _ALL else address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    wanted = sorted({(family, sockaddr[:2], sockaddr) for family, _, _, _, sockaddr in found}, key=lambda row: row[0])
    listeners: list[socket.socket] = []
    refused: OSError | None = None
    try:
        for family, (host, _), sockaddr in wanted:
            try:
                listeners.append(_listen(family, (host, port, *sockaddr[2:])))
            except OSError as problem:
                if problem.errno not in _NO_SUCH_FAMILY:
                    raise
                refused = problem  # for example, no IPv6 in this container
                continue
            port = listeners[0].getsockname()[1]
    except OSError:
        _close(listeners)
        raise
    if not listeners:
        raise refused or OSError(errno.EADDRNOTAVAIL, "no address to listen on")
    return listeners


def _listen(family: int, sockaddr: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own, so this one must not take its port as well.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: str) -> socket.socket:
    try:
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(path)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as problem:
        raise _named(problem, path) from problem
    return listener


def _remove_stale(path: str) -> None:
    """Remove the file that a dead server left. Raises if a live server listens there, or the file is no socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file of that name, which is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except (BlockingIOError, TimeoutError):
            pass  # a full backlog: the server is alive
    raise OSError(errno.EADDRINUSE, "another server is listening there")


def _named(problem: OSError, where: str) -> OSError:
    reason = problem.strerror or str(problem)  # a path that is too long never gets to the system
    return OSError(problem.errno, f"{reason} ({where})")


def _close(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
