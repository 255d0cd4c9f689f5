"""Who has pages open in this worker: `state._active_users`, by which Panel refreshes a user's tokens or leaves it.

Panel adds one for each websocket and takes one away for each session. Here a page's websocket opens again, and may be
at another worker than its session, so that nothing would come out even. So users are counted by their sessions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from bokeh.document import Document
from panel.auth import BasicAuthProvider, OAuthProvider
from panel.config import config
from panel.io.state import set_curdoc, state
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

__all__ = ["enter", "install", "leave"]

_users: WeakKeyDictionary[Document, str] = WeakKeyDictionary()
"""Of this worker's sessions."""


def install() -> None:
    """Have Panel's logins count nobody. Once per process, before one is made."""
    provider: Any = BasicAuthProvider
    oauth: Any = OAuthProvider
    provider._remove_user = oauth._remove_user = _remove_user
    by_cookie = _uncounted(provider.get_user.fget)
    provider.get_user = property(by_cookie)
    oauth.get_user_async = property(_uncounted_later(oauth.get_user_async.fget, by_cookie))


def enter(document: Document) -> None:
    """Count a session's user, if there is one."""
    if not (config.basic_auth or config.oauth_provider) or document.session_context is None:
        return
    with set_curdoc(document):
        user = state.user
    if user:
        _users[document] = user
        state._active_users[user] += 1


def leave(document: Document) -> None:
    """The session ends. Idempotent."""
    user = _users.pop(document, None)
    if user is not None:
        _subtract(user)
        # What is being refreshed is empty, and stays.
        if not state._active_users[user] and state._oauth_user_overrides.get(user):
            del state._oauth_user_overrides[user]


def _remove_user(login: object, session_context: object) -> None:
    """No-op: `leave` does."""


def _subtract(user: str) -> None:
    state._active_users[user] -= 1
    if not state._active_users[user]:
        del state._active_users[user]


_Ask = Callable[[RequestHandler], str | None]
_AskLater = Callable[[RequestHandler], Awaitable[str | None]]


def _uncounted(asks: Callable[[Any], _Ask]) -> Callable[[Any], _Ask]:
    def get_user(login: Any) -> _Ask:
        ask = asks(login)

        def asked(handler: RequestHandler) -> str | None:
            user = ask(handler)
            if user and isinstance(handler, WebSocketHandler):
                _subtract(user)
            return user

        return asked

    return get_user


def _uncounted_later(asks: Callable[[Any], _AskLater], by_cookie: Callable[[Any], _Ask]) -> Callable[[Any], _AskLater]:
    def get_user_async(login: Any) -> _AskLater:
        ask = asks(login)

        async def asked(handler: RequestHandler) -> str | None:
            # A page that comes back to another worker has no session here yet, and its tokens are refreshed from now on
            # only if its user is active.
            user = by_cookie(login)(handler) if isinstance(handler, WebSocketHandler) else None
            if user is None:
                return await ask(handler)
            state._active_users[user] += 1
            try:
                return await ask(handler)
            finally:
                _subtract(user)

        return asked

    return get_user_async
