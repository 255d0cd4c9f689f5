"""Files: BokehJS, an app's own static folder, extension packages' assets, the favicon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bokeh.settings import settings as bokeh_settings
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from aperture.worker.http.resources import Extensions

__all__ = ["BokehJsHandler", "Departures", "ExtensionHandler", "IconHandler"]


class Departures:
    """The files that are on their way out of this worker, which app code on the event loop would hold up."""

    def __init__(self) -> None:
        self._leaving: dict[str, list[asyncio.Future[None]]] = {}

    @property
    def addresses(self) -> set[str]:
        """Those for which some are leaving."""
        return set(self._leaving)

    @contextmanager
    def leaving(self, address: str) -> Iterator[None]:
        """One is, to this address, until the end of the block: then the system has it, and sends it by itself."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        others = self._leaving.setdefault(address, [])
        others.append(gone)
        try:
            yield
        finally:
            gone.set_result(None)
            others.remove(gone)
            if not others:
                del self._leaving[address]

    def when_gone(self, address: str, call: Callable[[], None]) -> None:
        """Call this when those that are leaving for this address now have left; at once, if none are.

        Nobody waits for it: a peer that has stopped reading keeps a file here for as long as it likes.
        """
        leaving = self._leaving.get(address)
        if leaving:
            asyncio.gather(*leaving).add_done_callback(lambda _: call())
        else:
            call()


class _ScriptHandler(StaticFileHandler):
    """Files that pages wait for.

    Args:
        departures: where it counts them.
        path: of their folder.
    """

    def initialize(self, departures: Departures, path: str) -> None:  # type: ignore[override]
        super().initialize(path=path)
        self._departures = departures

    async def get(self, path: str, include_body: bool = True) -> None:
        with self._departures.leaving(self.request.remote_ip or ""):
            await super().get(path, include_body)


class BokehJsHandler(_ScriptHandler):
    """`GET /static/…`: BokehJS as the installed Bokeh brings it.

    Args:
        departures: of this worker.
    """

    def initialize(self, departures: Departures) -> None:  # type: ignore[override]
        super().initialize(departures, str(bokeh_settings.bokehjs_path()))


class ExtensionHandler(_ScriptHandler):
    """`GET /static/extensions/{name}/{file}`: right in every worker, whichever rendered the page.

    Args:
        extensions: knows the folders.
        departures: of this worker.
    """

    def initialize(self, extensions: Extensions, departures: Departures) -> None:  # type: ignore[override]
        super().initialize(departures, "")
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
