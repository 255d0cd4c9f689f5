"""The root page: a list of the apps, or the way to the only one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tornado.web import authenticated

from aperture.worker.http.auth import AuthenticatedHandler

__all__ = ["IndexHandler"]

_TEMPLATES = Path(__file__).parent / "templates"


class IndexHandler(AuthenticatedHandler):
    """`GET {prefix}/`.

    Args:
        urls: the apps' routes.
        index: a Tornado template to use instead of ours, with the variables `prefix` and `items`.
        redirect: whether a single app is gone to at once.
    """

    def initialize(self, urls: Sequence[str], index: str | None, redirect: bool) -> None:
        self._urls = urls
        self._template = "index.html" if index is None else str(Path(index).absolute())
        self._redirect = redirect

    def get_template_path(self) -> str:
        return str(_TEMPLATES)

    @authenticated
    async def get(self) -> None:
        prefix = self.settings["prefix"]
        if self._redirect and len(self._urls) == 1:
            self.redirect(prefix + self._urls[0])
            return
        self.render(self._template, prefix=prefix, items=sorted(self._urls))

    head = get
