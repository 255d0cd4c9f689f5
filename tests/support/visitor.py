"""A visitor with a browser's cookies and redirects, and nothing else of it."""

from __future__ import annotations

from http.cookies import SimpleCookie
from urllib.parse import urljoin, urlsplit

from support.fetch import Response, fetch

__all__ = ["Visitor"]

_MOST_REDIRECTS = 10


class Visitor:
    """Follows redirects over several servers, and keeps each server's cookies."""

    def __init__(self) -> None:
        self._cookies: dict[str, dict[str, str]] = {}
        self.visited: list[str] = []
        """Each URL that was asked for, oldest first."""

    def cookies(self, url: str) -> dict[str, str]:
        """Those of the server that has this URL, by name; they can be changed."""
        return self._cookies.setdefault(urlsplit(url).netloc, {})

    def headers(self, url: str) -> dict[str, str]:
        """What the browser would send there."""
        found = self.cookies(url)
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in found.items())} if found else {}

    def get(self, url: str) -> Response:
        """The answer at the end of all redirects."""
        return self._follow("GET", url, None)

    def submit(self, url: str, form: bytes) -> Response:
        """A form; the answer at the end of all redirects."""
        return self._follow("POST", url, form)

    def _follow(self, method: str, url: str, body: bytes | None) -> Response:
        for _ in range(_MOST_REDIRECTS):
            answer = self._once(method, url, body)
            if answer.status not in (301, 302, 303):
                return answer
            method, body, url = "GET", None, urljoin(url, answer.headers["location"])
        raise AssertionError(f"redirected in circles: {self.visited}")

    def _once(self, method: str, url: str, body: bytes | None) -> Response:
        self.visited.append(url)
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        answer = fetch(url, method, headers={**self.headers(url), **kind}, body=body)
        for name, value in answer.all_headers:
            if name == "set-cookie":
                self._take(url, value)
        return answer

    def _take(self, url: str, cookie: str) -> None:
        for name, morsel in SimpleCookie(cookie).items():
            if morsel.value:
                self.cookies(url)[name] = morsel.value
            else:
                self.cookies(url).pop(name, None)
