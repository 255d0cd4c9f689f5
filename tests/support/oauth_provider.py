"""A provider of logins by OAuth, on loopback: it logs everybody in as the same person, without asking."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from support.loopback_server import LoopbackServer

__all__ = ["EMAIL", "KEY", "SECRET", "OAuthProvider"]

KEY = "the-client"
SECRET = "the-clients-secret"
EMAIL = "ann@example.org"


class OAuthProvider(LoopbackServer):
    """Serves `/authorize`, `/token` and `/userinfo` for the time of a `with` block.

    A code, and a refresh token, is good for one use only, as with careful providers.

    Args:
        expires_in: seconds that an access token is good for, as it says.
    """

    def __init__(self, *, expires_in: int = 3600) -> None:
        super().__init__(self._handler())
        self._expires_in = expires_in
        self._lock = threading.Lock()
        self._good: set[str] = set()
        self._made = 0
        self.granted: list[dict[str, str]] = []
        """What was asked of `/token` and given, one row each."""
        self.refused: list[dict[str, str]] = []
        """What was asked of `/token` and refused."""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                provider._post(self)

            def log_message(self, *args: Any) -> None:
                """No-op."""

        return Handler

    def options(self) -> list[str]:
        """For Panel's command."""
        return ["--oauth-provider", "generic", "--oauth-key", KEY, "--oauth-secret", SECRET]

    def environment(self) -> dict[str, str]:
        """Where Panel finds it."""
        return {
            "PANEL_OAUTH_AUTHORIZE_URL": f"{self.url}/authorize",
            "PANEL_OAUTH_TOKEN_URL": f"{self.url}/token",
            "PANEL_OAUTH_USER_URL": f"{self.url}/userinfo",
        }

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        where = urlsplit(request.path)
        query = {name: values[-1] for name, values in parse_qs(where.query).items()}
        if where.path == "/authorize" and query.get("client_id") == KEY:
            back = urlencode({"code": self._issue("code"), "state": query["state"]})
            request.send_response(302)
            request.send_header("Location", f"{query['redirect_uri']}?{back}")
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif (
            where.path == "/userinfo" and request.headers.get("Authorization", "").removeprefix("Bearer ") in self._good
        ):
            _answer(request, 200, {"email": EMAIL, "name": "Ann"})
        else:
            _answer(request, 400, {"error": "invalid_request"})

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", "0"))).decode()
        asked = {name: values[-1] for name, values in parse_qs(body).items()}
        given = asked.get("code") or asked.get("refresh_token") or ""
        with self._lock:
            fits = (asked.get("client_id"), asked.get("client_secret")) == (KEY, SECRET) and given in self._good
            self._good.discard(given)
            (self.granted if fits else self.refused).append(asked)
        if not fits:
            _answer(request, 400, {"error": "invalid_grant", "error_description": "used before, or never given out"})
            return
        answer = {"access_token": self._issue("access"), "refresh_token": self._issue("refresh")}
        _answer(request, 200, {**answer, "expires_in": self._expires_in, "id_token": _jwt({"email": EMAIL})})

    def _issue(self, what: str) -> str:
        with self._lock:
            self._made += 1
            token = f"{what}-{self._made}"
            self._good.add(token)
        return token


def _jwt(claims: dict[str, Any]) -> str:
    """Unsigned: the client has it from the provider itself."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), ""])


def _answer(request: BaseHTTPRequestHandler, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
