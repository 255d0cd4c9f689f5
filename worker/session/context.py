"""What an app sees of its session: `curdoc().session_context`."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from bokeh.application.application import ServerContext, SessionContext
from bokeh.document import Document

from aperture.worker.session.session_request import SessionRequest

if TYPE_CHECKING:
    from aperture.worker.session.session import Session

__all__ = ["AppServerContext", "AppSessionContext"]


class _App(Protocol):
    """An `aperture.worker.session.host.AppHost`, which makes these contexts."""

    @property
    def sessions(self) -> Iterable[Session]: ...


class AppServerContext(ServerContext):
    """What lifecycle hooks see of the server: the sessions of their app in this worker."""

    def __init__(self, host: _App) -> None:
        self._host = weakref.ref(host)

    @property
    def application_context(self) -> _App | None:
        return self._host()

    @property
    def sessions(self) -> Iterable[Session]:  # type: ignore[override]
        host = self._host()
        return [] if host is None else list(host.sessions)


class AppSessionContext(SessionContext):
    """What an app sees of its session, before and after the session itself exists."""

    def __init__(
        self,
        session_id: str,
        server_context: ServerContext,
        document: Document,
        *,
        request: SessionRequest | None,
        token_payload: dict[str, Any],
        logout_url: str | None,
    ) -> None:
        super().__init__(server_context, session_id)  # type: ignore[arg-type]
        self._document = document
        self._request = request
        self._token_payload = token_payload
        self._logout_url = logout_url
        self._session: Session | None = None

    def fulfil(self, request: SessionRequest | None, payload: dict[str, Any]) -> None:
        """The visitor has come for whom this session was made ahead."""
        self._request, self._token_payload = request, payload

    @property
    def destroyed(self) -> bool:
        return self._session is not None and self._session.destroyed

    @property
    def request(self) -> SessionRequest | None:
        return self._request

    @property
    def token_payload(self) -> dict[str, Any]:
        """Headers, cookies and arguments of the request, the token's expiry, and what `process_request` has added."""
        return self._token_payload

    @property
    def session(self) -> Session | None:
        return self._session

    @property
    def logout_url(self) -> str | None:
        return self._logout_url

    async def with_locked_document(self, func: Callable[[Document], Awaitable[None] | None]) -> None:
        """Run `func` with the document while holding its lock."""
        if self._session is None:
            # on_session_created hooks run before the document is published, so there is nothing to lock out.
            result = func(self._document)
            if result is not None:
                await result
        else:
            await self._session.with_document_locked(func, self._document)
