"""The root page: a list of the apps, or the way to the only one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tornado.web import authenticated

from aperture.paths import quoted
from aperture.worker.http.auth import AuthenticatedHandler

__all__ = ["IndexHandler"]

_TEMPLATES = Path(__file__).parent / "templates"


class IndexHandler(AuthenticatedHandler):
    """`GET {prefix}/`.

    Args:
        routes: of the apps.
        index: a Tornado template to use instead of ours, with the variables `prefix` and `items` and the function
            `quoted`, which makes of an item what a link to it needs.
        redirect: whether a single app is gone to at once.
    """

    def initialize(self, routes: Sequence[str], index: str | None, redirect: bool) -> None:
        self._routes = routes
        self._template = "index.html" if index is None else str(Path(index).absolute())
        self._redirect = redirect

    def get_template_path(self) -> str:
        return str(_TEMPLATES)

    @authenticated
    async def get(self) -> None:
        prefix = self.settings["prefix"]
        if self._redirect and len(self._routes) == 1:
            self.redirect(prefix + quoted(self._routes[0]))
            return
        self.render(self._template, prefix=prefix, items=sorted(self._routes), quoted=quoted)

    head = get
