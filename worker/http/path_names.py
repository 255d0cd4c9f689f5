"""Which requests a route is for, by what their paths say and not by how they are encoded.

Tornado's own matcher compares the path as it was sent with a regular expression. An app called `my app` would have no
page there, since a blank is sent as `%20`, and one called `v1.2` would also answer at `/v1x2`.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, PathMatches

from aperture.paths import path_of

__all__ = ["At", "Below", "Matching"]


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


def _split(path: str, steps: int) -> tuple[str, str]:
    """What the first steps of a path are, and what follows, which is empty or begins with a slash."""
    parts = path.split("/", steps + 1)
    if len(parts) < steps + 2:
        return path, ""
    return "/".join(parts[:-1]), f"/{parts[-1]}"
