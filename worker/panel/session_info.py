"""Panel's count of sessions, over all workers: for `/rest/session_info` and for Panel's admin page.

Panel counts in `pn.state.session_info`, which is of one process. Here every worker answers the others with its own
count, and the page that shows it adds them up. What apps read in `pn.state.session_info` remains this worker's.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import msgspec
from bokeh.application.application import SessionContext
from panel.io.rest import ParamHandler
from panel.io.state import state

from aperture.worker.panel.admin_page import admin_module
from aperture.worker.session.framework import Asks

__all__ = ["SESSIONS", "PublishedHandler", "Sessions", "install"]

TOPIC = "panel.session_info"

MOST = 10_000
"""Sessions that a worker tells of, the newest: two hundred bytes each."""

_Moment = float | None


class Session(msgspec.Struct, frozen=True):
    """What Panel notes of a session: moments in seconds since the epoch, and the browser."""

    launched: _Moment = None
    started: _Moment = None
    rendered: _Moment = None
    ended: _Moment = None
    user_agent: str | None = None


class Count(msgspec.Struct, frozen=True):
    """`pn.state.session_info`, of one worker or of several. Anybody with access to Redis can send one."""

    total: int
    live: int
    sessions: dict[str, Session]


_decoder = msgspec.json.Decoder(Count)


class Sessions:
    """The count of this process, and those of the others."""

    def __init__(self) -> None:
        self._peers: Asks | None = None
        self._others: list[Count] = []

    def start(self, peers: Asks) -> None:
        """Answer the others, and have Panel's admin page show them, if there is one."""
        self._peers = peers
        peers.answers(TOPIC, lambda: msgspec.json.encode(_own()))
        if (admin := admin_module()) is not None:
            _have_shown(admin, self)

    @property
    def latest(self) -> dict[str, Any]:
        """The count of all workers, as far as it is known now, in the form of `pn.state.session_info`."""
        info: dict[str, Any] = msgspec.to_builtins(_sum([*self._others, _own()]))
        return info

    async def ask(self) -> dict[str, Any]:
        """The count of all workers that answer."""
        if self._peers is not None:
            self._others = [count for answer in await self._peers.ask(TOPIC) if (count := _read(answer)) is not None]
        return self.latest

    async def refresh(self) -> None:
        """Have Panel's admin page draw the count of all workers, if it is another than before."""
        before = self._others
        await self.ask()
        if before != self._others:
            state.param.trigger("session_info")


SESSIONS = Sessions()
"""Of this process, as Panel's count is."""


def install() -> None:
    """Have Panel count a session that comes back to this process as one that has not been here. Once per process."""
    state._on_session_created_internal.insert(0, _forget)


def _forget(session_context: SessionContext) -> None:
    """Take out of the count what was there of a session, which is about to be counted.

    It was moved to another worker and back, or it starts afresh because its stored state did not fit. Panel would leave
    it as it was: ended, and not live.
    """
    info = state.session_info
    before = info["sessions"].pop(session_context.id, None)
    if before is None:
        return
    info["total"] -= 1
    if before["rendered"] is not None and before["ended"] is None:
        info["live"] -= 1


class PublishedHandler(ParamHandler):  # type: ignore[misc]
    """`GET /rest/{endpoint}`: what was published with `pn.state.publish`; of sessions, those of all workers."""

    async def get(self) -> None:
        endpoint = self.request.path.rpartition(f"/{self.root}")[2]
        if endpoint != "session_info" or endpoint not in state._rest_endpoints or self.request.query:
            await super().get()
            return
        self.write({"session_info": await SESSIONS.ask()})


def _have_shown(admin: Any, sessions: Sessions) -> None:
    """Have Panel's admin page draw its curves of the sessions of all workers. Idempotent."""
    original = getattr(admin.get_session_data, "__wrapped__", admin.get_session_data)

    def get_session_data() -> Any:
        before, admin.state = admin.state, SimpleNamespace(session_info=sessions.latest)
        try:
            return original()
        finally:
            admin.state = before

    get_session_data.__wrapped__ = original  # type: ignore[attr-defined]
    admin.get_session_data = get_session_data


def _own() -> Count:
    info = state.session_info
    newest = list(info["sessions"].items())[-MOST:]
    return Count(info["total"], info["live"], {key: Session(**session) for key, session in newest})


def _read(answer: bytes) -> Count | None:
    try:
        return _decoder.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _sum(counts: Iterable[Count]) -> Count:
    """All of them, in the order in which they were launched; a session that has moved where it was launched last."""
    counts = list(counts)
    by_time = sorted((one for count in counts for one in count.sessions.items()), key=lambda one: one[1].launched or 0)
    sessions = dict(by_time)
    moved = len(by_time) - len(sessions)
    return Count(sum(count.total for count in counts) - moved, sum(count.live for count in counts), sessions)
