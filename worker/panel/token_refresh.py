"""OAuth tokens, refreshed once for all workers.

Each worker that has a page of a user refreshes the user's tokens in time, and careful providers take a refresh token
once: the second worker that comes with it would log the user out. So the worker that claims a refresh token refreshes,
and leaves what it was given as a note for the others. Notes are found by the token that was spent, and so also by a
worker that has only a page's old cookies: what was given for those, and then for that, leads to the newest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from panel.auth import OAuthProvider, decode_token
from panel.config import config
from panel.io.state import state

from aperture.errors import BusDown
from aperture.worker.session.framework import Asks

__all__ = ["Refreshes"]

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds in which the worker that has claimed a refresh token has been answered, or has died."""

_LOOK_AGAIN = 0.1
"""Seconds between two looks for the note."""

_A_DAY = 86_400.0

_MOST_STEPS = 1000
"""From a page's cookies to the newest tokens: a page that is open for a month, with tokens for an hour."""

_Refresh = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a provider has given for a refresh token, as Panel has it in `state._oauth_user_overrides`.

    Args:
        access_token: as the provider gave it.
        refresh_token: the next; None if the provider gives no other.
        expiry: of the access token, in seconds since the epoch; None if the provider does not say.
    """

    access_token: str
    refresh_token: str | None
    expiry: float | None

    @property
    def good(self) -> bool:
        """Whether they can be used now."""
        expiry = self.expiry
        if expiry is None:
            try:
                expiry = float(decode_token(self.access_token)["exp"])
            except Exception:
                return True  # it says nowhere how long
        return expiry > time.time()


class Refreshes:
    """Refreshes the tokens of this worker's users, or takes what another worker was given for them.

    Args:
        peers: the other workers.
    """

    def __init__(self, peers: Asks) -> None:
        self._peers = peers

    def install(self) -> None:
        """Have Panel's logins refresh by this. Once per worker."""
        provider: Any = OAuthProvider
        refresh: _Refresh = provider._refresh_access_token
        as_scheduled: _Refresh = provider._scheduled_refresh

        async def refresh_access_token(login: Any, user: str, refresh_token: str, *where: Any) -> None:
            await self._refresh(user, refresh_token, lambda token: refresh(login, user, token, *where))

        async def scheduled_refresh(login: Any, user: str, refresh_token: str, *where: Any, **how: Any) -> Any:
            # Panel refreshes for those who have a page open here. One may be open at another worker.
            if not state._active_users.get(user) and (found := await self._newest(refresh_token)) and found.good:
                state._oauth_user_overrides[user] = asdict(found)
                return found.access_token, found.refresh_token, found.expiry
            return await as_scheduled(login, user, refresh_token, *where, **how)

        provider._refresh_access_token = refresh_access_token
        provider._scheduled_refresh = scheduled_refresh

    async def _refresh(self, user: str, refresh_token: str, refresh: Callable[[str], Awaitable[None]]) -> None:
        known = state._oauth_user_overrides.get(user)
        if known == {}:
            await refresh(refresh_token)  # Panel is refreshing them in this worker, and waits for that
            return
        spent: str = known["refresh_token"] if known else refresh_token
        newest = await self._newest(spent)
        if newest is None or not newest.good:
            spent = newest.refresh_token if newest is not None and newest.refresh_token else spent
            if await self._is_ours(spent):
                await self._refresh_and_tell(user, spent, refresh)
                return
            newest = await self._told(spent)
        if newest is not None:
            state._oauth_user_overrides[user] = asdict(newest)

    async def _refresh_and_tell(self, user: str, spent: str, refresh: Callable[[str], Awaitable[None]]) -> None:
        # Panel prefers what it knows of the user to what it is asked to refresh.
        state._oauth_user_overrides.pop(user, None)
        note = b""
        try:
            await refresh(spent)
            if given := state._oauth_user_overrides.get(user):
                # A provider that gives no other refresh token means that this one stays good.
                given["refresh_token"] = given["refresh_token"] or spent
                note = _sealed(Tokens(**given))
        finally:
            # Also of a failure: the others need not wait for what will not come.
            lifetime = (config.oauth_expiry or 1) * _A_DAY if note else PATIENCE
            try:
                await self._peers.leave(_subject(spent), note, lifetime)
            except BusDown:
                log.warning("the other workers are not told of refreshed tokens: their users may have to log in again")

    async def _is_ours(self, spent: str) -> bool:
        try:
            return await self._peers.claim(_subject(spent), PATIENCE)
        except BusDown:
            return True  # alone, as each process of `panel serve` is

    async def _told(self, spent: str) -> Tokens | None:
        """What the worker was given that has claimed this token; None if it was given nothing."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            note = await self._note(spent)
            if note is not None:
                return _opened(note)
            await asyncio.sleep(_LOOK_AGAIN)
        return None

    async def _newest(self, spent: str) -> Tokens | None:
        """The tokens at the end of the way that begins with this refresh token; None if it has not been spent."""
        newest = None
        for _ in range(_MOST_STEPS):
            found = _opened(await self._note(spent) or b"")
            if found is None:
                break
            newest = found
            if found.refresh_token is None or found.refresh_token == spent:
                break
            spent = found.refresh_token
        return newest

    async def _note(self, spent: str) -> bytes | None:
        try:
            return await self._peers.find(_subject(spent))
        except BusDown:
            return None


def _subject(refresh_token: str) -> str:
    return f"panel.refresh:{hashlib.sha256(refresh_token.encode()).hexdigest()}"


def _sealed(tokens: Tokens) -> bytes:
    """As Panel's cookies are: encrypted where `--oauth-encryption-key` is given, and else readable in Redis."""
    plain = json.dumps(asdict(tokens)).encode()
    return plain if state.encryption is None else bytes(state.encryption.encrypt(plain))


def _opened(note: bytes) -> Tokens | None:
    """What was sealed; None if there was nothing, or if another key has sealed it."""
    if not note:
        return None
    try:
        plain = note if state.encryption is None else state.encryption.decrypt(note)
        return Tokens(**json.loads(plain))
    except Exception as problem:
        log.warning("refreshed tokens of another worker cannot be read: %s", type(problem).__name__)
        return None
