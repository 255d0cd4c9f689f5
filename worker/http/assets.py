"""Files: BokehJS, an app's own static folder, extension packages' assets, the favicon."""

from __future__ import annotations

from bokeh.settings import settings as bokeh_settings
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from aperture.worker.http.resources import Extensions

__all__ = ["BokehJsHandler", "ExtensionHandler", "IconHandler"]


class BokehJsHandler(StaticFileHandler):
    """`GET /static/…`: BokehJS as the installed Bokeh brings it."""

    def initialize(self) -> None:  # type: ignore[override]
        super().initialize(path=str(bokeh_settings.bokehjs_path()))


class ExtensionHandler(StaticFileHandler):
    """`GET /static/extensions/{name}/{file}`: right in every worker, whichever rendered the page.

    Args:
        extensions: knows the folders.
    """

    def initialize(self, extensions: Extensions) -> None:  # type: ignore[override]
        super().initialize(path="")
        self._extensions = extensions

    async def get(self, path: str, include_body: bool = True) -> None:
        name, _, file = path.partition("/")
        folder = await self._extensions.folder(name)
        if folder is None or not file:
            raise HTTPError(404)
        self.root = str(folder)
        await super().get(file, include_body)


class IconHandler(RequestHandler):
    """`GET /favicon.ico`, which never has the prefix.

    Args:
        icon: the file's content, or None to answer 404.
    """

    def initialize(self, icon: bytes | None) -> None:
        self._icon = icon

    def get(self) -> None:
        if self._icon is None:
            raise HTTPError(404)
        self.set_header("Content-Type", "image/x-icon")
        self.set_header("Cache-Control", "public, max-age=86400")
        self.finish(self._icon)

    head = get
