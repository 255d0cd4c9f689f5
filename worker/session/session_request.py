"""The request that created a session, as the app sees it."""

from __future__ import annotations

from typing import Any

from tornado.httputil import HTTPServerRequest

__all__ = ["SessionRequest"]


class SessionRequest:
    """The request that created a session, as the app may read it.

    Args:
        request: the page's request, detached from its connection; every other attribute is looked up here.
        arguments: of the query, without `bokeh-session-id`; lists of bytes.
        cookies: name to value, after the include and exclude options.
        headers: name to value, after the include and exclude options.
    """

    def __init__(
        self,
        request: HTTPServerRequest,
        *,
        arguments: dict[str, list[bytes]],
        cookies: dict[str, str],
        headers: dict[str, str],
    ) -> None:
        self._request = request
        self.arguments = arguments
        self.cookies = cookies
        self.headers = headers

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._request, name)
