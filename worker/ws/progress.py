"""Whether the peer of a stream takes anything at all, which its slowness does not say.

What the kernel has been given says little: it takes megabytes more than the peer has, and then nothing for a minute
while a slow peer reads those. What the peer has acknowledged says it: that is what was given less what is still there.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from contextlib import suppress
from typing import NamedTuple

from tornado.iostream import IOStream

__all__ = ["Progress", "progress_of"]


class Progress(NamedTuple):
    """Two of these differ if, between them, the peer has taken anything."""

    given: int
    """Bytes that Tornado has given to the kernel."""
    unacknowledged: int
    """Bytes that the kernel still has of those, and of what was written around Tornado; 0 where it does not say."""


def progress_of(stream: IOStream) -> Progress:
    """How far a stream's peer is."""
    held = 0
    with suppress(OSError, AttributeError):  # a closed stream's socket is None; not every system knows the call
        held = struct.unpack("i", fcntl.ioctl(stream.socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return Progress(stream._total_write_done_index, held)
