"""Signals that the process which started this one has had ignored."""

from __future__ import annotations

import signal

__all__ = ["heed_signals"]


def heed_signals() -> None:
    """Have no server that is started from here ignore what nohup, or a shell's job in the background, has ignored."""
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
