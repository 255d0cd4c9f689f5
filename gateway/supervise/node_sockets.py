"""What outlives every process of a node but the supervisor: listening sockets, the pair with the gateway, the lifeline.

All of it is made before the first fork. Each child closes what is not its own, right after its fork.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from aperture.wire.endpoint import datagram_pair

__all__ = ["NodeSockets"]


class NodeSockets:
    """The descriptors that the supervisor keeps open for its children. It has them from here on.

    Args:
        listeners: listening sockets of the app port.
        admin_listeners: listening sockets of the admin port.
    """

    def __init__(self, listeners: Sequence[socket.socket], admin_listeners: Sequence[socket.socket]) -> None:
        self.listeners = tuple(listeners)
        self.admin_listeners = tuple(admin_listeners)
        self.control_end, self.gateway_control_end = datagram_pair()
        self.lifeline, self._lifeline_end = os.pipe()
        """Children read from it; it ends when the supervisor does, however it ends."""

    @property
    def of_gateway(self) -> tuple[socket.socket, ...]:
        """Those that the gateway's process goes on using."""
        return (*self.listeners, *self.admin_listeners, self.gateway_control_end)

    @property
    def all(self) -> tuple[socket.socket, ...]:
        """Every socket."""
        return (*self.of_gateway, self.control_end)

    def cut_lifeline(self) -> None:
        """In a child: close the writing end. One that kept it would never see the supervisor's death."""
        os.close(self._lifeline_end)

    def stop_listening(self) -> None:
        """Accept nothing more; connections that wait in the backlog are refused. Idempotent."""
        for listener in (*self.listeners, *self.admin_listeners):
            listener.close()

    def close(self) -> None:
        """Give everything back. Once, in the supervisor."""
        for sock in self.all:
            sock.close()
        os.close(self.lifeline)
        os.close(self._lifeline_end)
