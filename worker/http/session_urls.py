"""The URL of a session (`--session-urls`): reload, history and bookmarks come back to what they showed.

A page request that names no session gets a new one and is redirected to the same URL with its id in the query. So the
id is part of what browsers store and people pass on. A session that is gone is replaced by a new one, under a new id:
an id never stands for two sessions.
"""

from __future__ import annotations

from urllib.parse import unquote_plus, urlencode

from tornado.httputil import HTTPServerRequest

from aperture.protocol.naming import SESSION_ID_ARGUMENT, SESSION_ID_HEADER, TOKEN_ARGUMENT

__all__ = ["location_of", "names_otherwise"]


def location_of(request: HTTPServerRequest, session_id: str) -> str:
    """The request's URL with this session in place of any that it names.

    Only its query, which is a relative reference (RFC 3986, section 4.2): a proxy in front may have changed the path,
    the host and the scheme, and the browser knows what it asked for. The other arguments stay letter by letter.
    """
    others = [part for part in request.query.split("&") if part and not _names_session(part)]
    return "?" + "&".join([*others, urlencode({SESSION_ID_ARGUMENT: session_id})])


def names_otherwise(request: HTTPServerRequest) -> bool:
    """Whether a program has chosen the session, by a header or a token: such a request is answered as it is."""
    return SESSION_ID_HEADER in request.headers or TOKEN_ARGUMENT in request.query_arguments


def _names_session(part: str) -> bool:
    return unquote_plus(part.partition("=")[0]) == SESSION_ID_ARGUMENT
