"""Notice peers that vanish without a word: a laptop that sleeps, a cable that is pulled.

For whichever process holds a viewer's TCP connection: the worker, or with TLS the gateway, whose pair with the worker
cannot tell.
"""

from __future__ import annotations

import socket
import sys

__all__ = ["UNACKNOWLEDGED_LIMIT", "notice_lost_peer"]

UNACKNOWLEDGED_LIMIT = 120_000
"""Milliseconds that sent bytes may stay unacknowledged before the kernel gives the peer up (TCP_USER_TIMEOUT). Without
it a laptop that went to sleep holds its session for a quarter of an hour."""


def notice_lost_peer(connected: socket.socket) -> None:
    """Have the kernel end this connection when its peer does not answer any more; unix sockets need nothing."""
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_LIMIT)
