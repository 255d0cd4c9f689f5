"""The dashboard's routes: those of any app, behind the gate, and the login form."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tornado.web import HTTPError, RequestHandler, authenticated

from aperture.config.settings import DASHBOARD_ROUTE
from aperture.worker.dashboard.gate import COOKIE, LOGIN_LIFETIME, Asking, Gate
from aperture.worker.handler_context import Services
from aperture.worker.http.assets import BokehJsHandler
from aperture.worker.http.auth import AuthenticatedHandler
from aperture.worker.http.pages import AutoloadHandler, MetadataHandler, PageHandler
from aperture.worker.http.path_names import At, Below
from aperture.worker.session.host import AppHost
from aperture.worker.ws.handler import SessionSocket

__all__ = ["LOGIN", "dashboard_routes"]

LOGIN = f"{DASHBOARD_ROUTE}/login"

WRONG_TOKEN_PAUSE = 0.5
"""Seconds that each wrong token costs, one after the other, which makes guessing slow."""

MOST_WAITING = 16
"""Attempts that wait for their turn; further ones are refused."""

MOST_FORM = 8 * 1024
"""The largest form accepted, in bytes."""

_TEMPLATES = Path(__file__).parent / "templates"


def dashboard_routes(base: str, host: AppHost, services: Services) -> list[tuple[Any, ...]]:
    """The routes under the dashboard's path.

    Args:
        base: that path, with the prefix, decoded.
        host: the dashboard.
        services: the worker's shared parts.
    """
    shared = {"host": host, "services": services}
    login = {"gate": Gate(services.settings.admin_token), "attempts": _Attempts()}
    return [
        (At(base, slash=True), _Page, shared),
        (At(f"{base}/ws"), _Socket, shared),
        (At(f"{base}/metadata"), _Metadata, shared),
        (At(f"{base}/autoload.js"), _Autoload, shared),
        (At(f"{base}/login"), _Login, login),
        (Below(f"{base}/static"), BokehJsHandler, {"departures": services.departures}),
    ]


def _asking(handler: RequestHandler) -> Asking:
    request = handler.request
    # Not request.remote_ip, which --use-xheaders takes from a header.
    context = getattr(request.connection, "context", None)
    peer = getattr(context, "_orig_remote_ip", None)
    return Asking(
        peer=peer,
        host=request.host,
        header_names=list(request.headers),
        cookies={name: morsel.value for name, morsel in request.cookies.items()},
    )


class _Gated(RequestHandler):
    """Checks the gate before anything else."""

    generates_ids = True
    """Also with `--session-ids external-signed`: the program that signs the apps' ids has none for this page."""

    services: Services

    async def prepare(self) -> None:
        refusal = self.refusal()
        if refusal is not None:
            raise HTTPError(403, refusal)
        await super().prepare()  # type: ignore[misc]

    def refusal(self) -> str | None:
        """As `Gate.refusal`."""
        return Gate(self.services.settings.admin_token).refusal(_asking(self))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        problem = kwargs.get("exc_info", (None, None))[1]
        if status_code == 403 and isinstance(problem, HTTPError) and problem.log_message:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(problem.log_message + "\n")
            return
        super().write_error(status_code, **kwargs)


class _Page(_Gated, PageHandler):
    async def prepare(self) -> None:
        has_token = self.services.settings.admin_token is not None
        if has_token and self.request.method == "GET" and self.refusal() is not None:
            self.redirect(self.settings["prefix"] + LOGIN, status=303)
            return
        await super().prepare()


class _Autoload(_Gated, AutoloadHandler): ...


class _Metadata(_Gated, MetadataHandler): ...


class _Socket(_Gated, SessionSocket): ...


class _Attempts:
    """Wrong tokens, one after the other."""

    def __init__(self) -> None:
        self.waiting = 0
        self.turn = asyncio.Lock()


class _Login(AuthenticatedHandler):
    """`GET` and `POST {prefix}/admin/login`.

    Args:
        gate: that it opens.
        attempts: of this worker.
    """

    def initialize(self, gate: Gate, attempts: _Attempts) -> None:
        self._gate = gate
        self._attempts = attempts

    def get_template_path(self) -> str:
        return str(_TEMPLATES)

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
                        "frame-ancestors 'none'")  # fmt: skip

    async def prepare(self) -> None:
        if not self._gate.asks_for_token:
            raise HTTPError(404)
        await super().prepare()

    @authenticated
    async def get(self) -> None:
        self._form()

    @authenticated
    async def post(self) -> None:
        if len(self.request.body) > MOST_FORM:
            raise HTTPError(413)
        if self._gate.accepts(self.get_body_argument("token", "")):
            self._let_in()
            return
        if self._attempts.waiting >= MOST_WAITING:
            raise HTTPError(429)
        self._attempts.waiting += 1
        try:
            async with self._attempts.turn:
                await asyncio.sleep(WRONG_TOKEN_PAUSE)
        finally:
            self._attempts.waiting -= 1
        self.set_status(403)
        self._form("That is not the admin token.")

    def _let_in(self) -> None:
        base = self.settings["prefix"] + DASHBOARD_ROUTE
        self.set_cookie(
            COOKIE,
            self._gate.cookie(),
            max_age=LOGIN_LIFETIME,
            path=base,
            httponly=True,
            samesite="Strict",
            secure=self.request.protocol == "https",
        )
        self.redirect(base, status=303)

    def _form(self, problem: str = "") -> None:
        xsrf = self.xsrf_form_html() if self.settings.get("xsrf_cookies") else ""
        self.render("login.html", action=self.settings["prefix"] + LOGIN, problem=problem, xsrf=xsrf)
