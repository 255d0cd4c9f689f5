"""Which requests a route is for, by what their paths say and not by how they are encoded.

Tornado's own matcher compares the path as it was sent with a regular expression. An app called `my app` would have no
page there, since a blank is sent as `%20`, and one called `v1.2` would also answer at `/v1x2`.
"""

from __future__ import annotations

import re
from copy import copy
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, PathMatches

from aperture.paths import path_of

__all__ = ["At", "Below", "Matching", "WithParameters", "has_parameters"]


class At(Matcher):
    """Matches one path.

    Args:
        path: decoded.
        slash: whether it may have a slash at its end.
    """

    def __init__(self, path: str, *, slash: bool = False) -> None:
        self._paths = frozenset((path, f"{path}/") if slash else (path,))

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return {} if path_of(request.path) in self._paths else None


class Below(Matcher):
    """Matches every path below one, and gives the handler the rest.

    Args:
        path: decoded, without a slash at its end.
    """

    def __init__(self, path: str) -> None:
        self._start = f"{path}/"

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        path = path_of(request.path)
        # No file can have a zero byte in its name, and asking for one is an error and not a "no".
        if path is None or not path.startswith(self._start) or "\0" in path:
            return None
        return {"path_args": [path[len(self._start) :].encode()]}


class Matching(PathMatches):
    """Matches what a program has written as a regular expression, below the prefix of all paths.

    Args:
        prefix: empty, or a path with a slash at its beginning and none at its end; decoded.
        pattern: for what follows the prefix, as it is sent.
    """

    def __init__(self, prefix: str, pattern: str) -> None:
        super().__init__(pattern)
        self._prefix = prefix
        self._steps = prefix.count("/")

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        above, rest = _split(request.path, self._steps)
        if path_of(above) != self._prefix:
            return None
        below = copy(request)
        below.path = rest
        return super().match(below)


class WithParameters(Matcher):
    """Matches the paths of an app whose route has parameters, and notes these with the request.

    Panel reads them there: `route_params` by name, or by number if they have none, and `app_path`, the path without
    the prefix and without the end.

    Args:
        prefix: as of `Matching`.
        route: of the app, a regular expression with groups.
        end: of the path, behind the app's.
        slash: whether there may be one more at the end.
        below: whether it is every path below that one, of which the handler gets the rest.
    """

    def __init__(self, prefix: str, route: str, end: str = "", *, slash: bool = False, below: bool = False) -> None:
        rest = "/(?P<_rest>.*)" if below else "/?" if slash else ""
        self._prefix = prefix
        self._pattern = re.compile(f"(?P<_app>{route}){re.escape(end)}{rest}")

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        path = path_of(request.path)
        if path is None or not path.startswith(self._prefix) or "\0" in path:
            return None
        found = self._pattern.fullmatch(path[len(self._prefix) :])
        if found is None:
            return None
        named = {name: value for name, value in found.groupdict().items() if name not in ("_app", "_rest")}
        numbered = {str(number): value for number, value in enumerate(found.groups()[1:])}
        noted: Any = request
        noted.route_params, noted.app_path = named or numbered, found["_app"]
        return {} if "_rest" not in self._pattern.groupindex else {"path_args": [found["_rest"].encode()]}


def has_parameters(route: str) -> bool:
    """Whether this route is a regular expression with groups."""
    try:
        return "(" in route and re.compile(route).groups > 0
    except re.error:
        return False


def _split(path: str, steps: int) -> tuple[str, str]:
    """What the first steps of a path are, and what follows, which is empty or begins with a slash."""
    parts = path.split("/", steps + 1)
    if len(parts) < steps + 2:
        return path, ""
    return "/".join(parts[:-1]), f"/{parts[-1]}"
