"""Tells systemd that a node serves. In the supervisor, and only where a unit of `Type=notify` has started it."""

from __future__ import annotations

import logging
import socket

__all__ = ["notify_ready"]

log = logging.getLogger(__name__)


def notify_ready(address: str) -> None:
    """Send `READY=1`, as sd_notify(3) describes it.

    Args:
        address: what systemd has put into NOTIFY_SOCKET; empty if it waits for nothing.
    """
    if not address:
        return
    # An abstract address begins with @ in the variable and with a zero byte in the kernel.
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(b"READY=1", path)
        except OSError as problem:
            log.warning("systemd was not told that the node is ready, and will stop it: %s", problem)
