"""Mistakes that are planted on purpose: a soak that does not find them proves nothing by finding nothing else.

`make soak SOAK_ARGS="--mistake 'skip the epoch check'"` runs nodes by `python -m soak.mistakes NAME serve …`, which
changes the product in memory, before anything is forked, and then is what `python -m aperture` is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import SystemRandom
from typing import Any

from aperture.__main__ import main
from aperture.bus.bus import Script
from aperture.bus.redis import RedisBus
from aperture.registry import scripts
from aperture.worker.recovery.journal import SessionJournal
from aperture.worker.relay.edge import EdgeSession
from aperture.worker.session.store import SessionStore

__all__ = ["MISTAKES"]

_chance = SystemRandom()
"""Of each process its own: workers are forked, and would all draw the same again from their beginning."""


def _drop_a_patch() -> None:
    """One in a thousand, on its way from an edge to its viewers."""
    write = EdgeSession._write

    def forgetful(edge: EdgeSession, *arguments: Any) -> None:
        if _chance.randrange(1000):
            write(edge, *arguments)

    EdgeSession._write = forgetful  # type: ignore[method-assign, assignment]


def _skip_the_epoch_check() -> None:
    """Redis takes what an owner says that another has followed: patches, and what is stored."""
    check = "if taken(held, ARGV[1], ARGV[2]) then return -1 end\nif held[2] ~= ARGV[2] then"
    assert check in scripts.APPEND.source
    scripts.APPEND = Script(scripts.APPEND.source.replace(check, "if not held[1] then"))
    for name in ("STATE_BEGIN", "JOURNAL_ADD", "STATE_SNAPSHOT"):
        source = getattr(scripts, name).source
        setattr(scripts, name, Script(source.replace("if stranger() then return -1 end", "")))


def _acknowledge_early() -> None:
    """The answer does not wait for the journal."""

    def at_once(journal: SessionJournal, act: Callable[[], None], refuse: Callable[[], None]) -> None:
        act()

    SessionJournal.when_safe = at_once  # type: ignore[method-assign, assignment]


def _forget_a_subscription() -> None:
    """One session's, each time that the connection to Redis is made again."""
    resubscribe = RedisBus._resubscribe

    async def forgetful(bus: RedisBus) -> None:
        delivers = bus._delivers
        patches = [key for key in delivers if b":patches:" in key]
        if patches:
            bus._delivers = {key: deliver for key, deliver in delivers.items() if key != patches[0]}
        try:
            await resubscribe(bus)
        finally:
            bus._delivers = delivers

    RedisBus._resubscribe = forgetful  # type: ignore[method-assign, assignment]


def _run_app_code_twice() -> None:
    """One time in ten."""
    run = SessionStore._run_app

    async def eager(store: SessionStore, *arguments: Any) -> Any:
        if not _chance.randrange(10):
            await run(store, *arguments)
        return await run(store, *arguments)

    SessionStore._run_app = eager  # type: ignore[method-assign, assignment]


MISTAKES = {
    "drop a patch": _drop_a_patch,
    "skip the epoch check": _skip_the_epoch_check,
    "acknowledge early": _acknowledge_early,
    "forget a subscription": _forget_a_subscription,
    "run app code twice": _run_app_code_twice,
}

if __name__ == "__main__":
    MISTAKES[sys.argv.pop(1)]()
    sys.exit(main())
