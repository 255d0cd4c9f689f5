"""From a request to the session it is for: which id, may it have it, and what the app will see of the request."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bokeh.application import Application
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import HTTPError

from aperture.config.settings import Settings
from aperture.errors import TokenError
from aperture.protocol.naming import (
    SESSION_ID_ARGUMENT,
    SESSION_ID_HEADER,
    TOKEN_ARGUMENT,
    is_session_id,
)
from aperture.protocol.tokens import Token, Tokens
from aperture.worker.app_threads import called
from aperture.worker.session.host import Origin
from aperture.worker.session.session_request import SessionRequest

__all__ = ["Admission", "admit_page", "named_in_url", "origin_of"]


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may have its session.

    Args:
        session_id: given by the request, or new.
        token: the verified token that the request brought, if it did.
        fresh: the id was made for this request.
    """

    session_id: str
    token: Token | None = None
    fresh: bool = False


def admit_page(request: HTTPServerRequest, tokens: Tokens, *, generate_ids: bool) -> Admission:
    """Decide which session a page, or an autoload script, is for.

    Raises:
        HTTPError: 403, the request names no session where it must, names two, or has no right to the one it names.
    """
    given_id = named_in_url(request)
    header = request.headers.get(SESSION_ID_HEADER)
    token = _only(request, TOKEN_ARGUMENT)
    if given_id is not None and header is not None:
        raise HTTPError(403, reason="session ID was provided as an argument and header")
    session_id = given_id if given_id is not None else header
    if token is not None:
        if session_id is not None:
            raise HTTPError(403, reason="Both token and session ID were provided")
        verified = verify(tokens, token)
        return Admission(verified.session_id, verified)
    if session_id is None:
        if not generate_ids:
            raise HTTPError(403, reason="No bokeh-session-id provided")
        return Admission(tokens.new_session_id(), fresh=True)
    if not is_session_id(session_id) or not tokens.check_session_id(session_id):
        raise HTTPError(403, reason="Invalid token or session ID")
    return Admission(session_id)


def named_in_url(request: HTTPServerRequest) -> str | None:
    """The session id in the request's query, as it was given; None without one."""
    return _only(request, SESSION_ID_ARGUMENT)


def verify(tokens: Tokens, token: str) -> Token:
    """The token, if its form and signature are right.

    Raises:
        HTTPError: 403, with the reason, and without the token.
    """
    try:
        verified = tokens.verify(token)
        if not is_session_id(verified.session_id):
            raise TokenError("the session id in the token is empty, too long or not text")
        return verified
    except TokenError as problem:
        raise HTTPError(403, str(problem), reason="Invalid token or session ID") from problem


def origin_of(
    request: HTTPServerRequest,
    token: Token | None,
    settings: Settings,
    application: Application,
    user: str | None = None,
) -> Origin:
    """What the app will see of this request: what the token carries, else what the request itself has.

    All of it is kept beside the session. Bokeh puts it into the token, which rides in a header of the websocket
    request, and 8 KB of header is more than many proxies take.
    """
    carried = token.payload if token is not None else {}
    cookies = _chosen_cookies(request, settings) if "cookies" not in carried else dict(carried["cookies"])
    headers = _chosen_headers(request, settings, cookies) if "headers" not in carried else dict(carried["headers"])
    arguments = dict(request.arguments) if "arguments" not in carried else dict(carried["arguments"])
    if cookies and "Cookie" not in headers and _wants_cookie_header(settings):
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    payload: dict[str, Any] = {
        "session_expiry": _expiry(token, settings),
        **carried,
        "headers": headers,
        "cookies": cookies,
        "arguments": arguments,
    }
    if "headers" not in carried:
        payload.update(called(lambda: application.process_request(request)))
    seen = {name: values for name, values in arguments.items() if name != SESSION_ID_ARGUMENT}
    proxy = SessionRequest(_detached(request), arguments=seen, cookies=cookies, headers=headers)
    return Origin(proxy, payload, user=user)


def _expiry(token: Token | None, settings: Settings) -> float:
    """Until when the token opens the session, in seconds since the epoch: of this one, or of that in the new page."""
    if token is not None and token.expiry is not None:
        return token.expiry
    return int(time.time()) + settings.session_token_expiration


def _only(request: HTTPServerRequest, name: str) -> str | None:
    values = request.query_arguments.get(name)
    return None if not values else values[-1].decode("utf-8", "replace").strip()


def _chosen_cookies(request: HTTPServerRequest, settings: Settings) -> dict[str, str]:
    return {
        name: morsel.value
        for name, morsel in request.cookies.items()
        if _is_chosen(name, settings.include_cookies, settings.exclude_cookies)
    }


def _chosen_headers(request: HTTPServerRequest, settings: Settings, cookies: dict[str, str]) -> dict[str, str]:
    """The request's headers by the include and exclude lists. Names are compared without regard to case."""
    include = _lowered(settings.include_headers)
    exclude = _lowered(settings.exclude_headers)
    chosen = {name: value for name, value in request.headers.items() if _is_chosen(name.lower(), include, exclude)}
    by_name = settings.include_headers is not None
    filtered = settings.include_cookies is not None or settings.exclude_cookies is not None
    if filtered or (cookies and not by_name):
        # It is put together again from the chosen cookies; the original would smuggle in those left out.
        chosen.pop("Cookie", None)
    return chosen


def _wants_cookie_header(settings: Settings) -> bool:
    include, exclude = _lowered(settings.include_headers), _lowered(settings.exclude_headers)
    return _is_chosen("cookie", include, exclude)


def _lowered(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(name.lower() for name in names)


def _is_chosen(name: str, include: tuple[str, ...] | None, exclude: tuple[str, ...] | None) -> bool:
    if include is not None:
        return name in include
    return exclude is None or name not in exclude


def _detached(request: HTTPServerRequest) -> HTTPServerRequest:
    """A copy of the request that keeps no connection alive, with the page's URL also where a websocket created it."""
    page = request.path[: -len("/ws")] if request.path.endswith("/ws") else request.path
    uri = page + (f"?{request.query}" if request.query else "")
    copy = HTTPServerRequest(
        start_line=RequestStartLine("GET", uri or "/", request.version),
        headers=HTTPHeaders(request.headers),
    )
    copy.host = request.host
    copy.remote_ip = request.remote_ip
    copy.protocol = request.protocol
    return copy
