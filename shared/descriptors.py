"""How many descriptors a process may have open, which is how many connections a node can hold.

Not every platform can say (there is no `resource` on Windows, where no node runs but the package imports).
"""

from __future__ import annotations

import contextlib
import logging
import sys

if sys.platform != "win32":
    import resource

__all__ = ["affordable_pending", "raise_limit"]

log = logging.getLogger(__name__)

ENOUGH = 1_048_576
"""Asked for where the hard limit is "unlimited"; Linux refuses more than fs.nr_open, which is this by default."""

SCARCE = 4096
"""Below this many a node warns in its log: each open dashboard holds a descriptor for as long as it is open."""


def raise_limit() -> None:
    """Lift the soft limit of open descriptors to the hard one. Runs in the supervisor; its children inherit it."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        wanted = soft
    else:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted != resource.RLIM_INFINITY and wanted < SCARCE:
        log.warning("each process may have only %d descriptors open; raise the limit for more connections", wanted)


def affordable_pending(wanted: int) -> int:
    """How many of `wanted` connections may be kept before they have sent a request: half the descriptors at most."""
    if sys.platform == "win32":
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))
