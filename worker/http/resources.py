"""Where pages load BokehJS from, and what extensions bring along."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urljoin

from bokeh.core.has_props import HasProps
from bokeh.embed.bundle import Bundle, bundle_for_objs_and_resources, extension_dirs
from bokeh.resources import Resources
from bokeh.settings import settings as bokeh_settings
from tornado.web import StaticFileHandler

from aperture.worker.document.classes import only_packaged_models

__all__ = ["Extensions", "PageResources"]

ShareExtensions = Callable[[dict[str, str]], Awaitable[dict[str, str]]]
"""Tells the other workers of asset folders and returns what all of them know."""


class PageResources:
    """The scripts and styles that a page needs.

    Bokeh looks through every model class there is for each page, to find extensions. Which there are only changes when
    modules are imported, and with what sessions define, so the answer is kept until it does.

    Args:
        prefix: of all routes.
        absolute_url: of this server as browsers reach it, if pages must name it.
    """

    def __init__(self, prefix: str, absolute_url: str | None = None) -> None:
        self._prefix = prefix
        self._absolute_url = absolute_url
        self._bundles: dict[tuple[str | None, bool], tuple[frozenset[str], Bundle]] = {}

    def bundle(self, server_url: str | None = None, *, with_resources: bool = True) -> Bundle:
        """What a page needs; the caller may add to it.

        Args:
            server_url: scheme and host to load from; None means the page's own server.
            with_resources: False leaves out BokehJS itself, which the page then loads by other means.
        """
        classes = frozenset(HasProps.model_class_reverse_map)
        key = (server_url if with_resources else None, with_resources)
        known = self._bundles.get(key)
        if known is None or known[0] != classes:
            with only_packaged_models():
                known = (classes, bundle_for_objs_and_resources(None, self._resources(server_url, with_resources)))
            if len(self._bundles) > _BUNDLES_KEPT:
                self._bundles.clear()
            self._bundles[key] = known
        bundle = copy.copy(known[1])
        for name, parts in vars(bundle).items():
            if isinstance(parts, list):
                setattr(bundle, name, list(parts))
        return bundle

    def _resources(self, server_url: str | None, with_resources: bool) -> Resources | None:
        if not with_resources:
            return None
        mode = bokeh_settings.resources(default="server")
        if mode not in ("server", "server-dev"):
            return Resources(mode=mode)
        root = urljoin(server_url or self._absolute_url or "/", self._prefix)
        return Resources(mode=mode, root_url=root, path_versioner=versioned)


_BUNDLES_KEPT = 64
"""Server URLs come from the query of autoload.js, so from anybody."""


def versioned(path: str) -> str:
    """A BokehJS file's path with a hash of its content, so that browsers may keep it for ever."""
    if bokeh_settings.dev:
        return path
    version = StaticFileHandler.get_version({"static_path": str(bokeh_settings.bokehjs_path())}, path)
    return f"{path}?v={version}" if version else path


class Extensions:
    """The asset folders of extension packages (Panel and its like), the same in every worker.

    Bokeh learns of a folder when it renders a page, in the process that renders it. A browser may ask any worker for
    the files, so a worker tells what it has learnt before the page leaves it, and asks when it is asked for what it
    does not know.

    Args:
        share: exchanges what is known with the other workers; None where there are none.
    """

    def __init__(self, share: ShareExtensions | None = None) -> None:
        self._share = share
        self._published = 0
        self._others: dict[str, str] = {}

    async def publish(self) -> None:
        """Tell of what is new, and return once the others can know."""
        if len(extension_dirs) != self._published:
            self._published = len(extension_dirs)
            await self._exchange()

    async def folder(self, name: str) -> Path | None:
        """The asset folder of an extension, asking the other workers if it is not known here."""
        known = self._known(name)
        if known is None:
            await self._exchange()
            known = self._known(name)
        return known

    def _known(self, name: str) -> Path | None:
        here = extension_dirs.get(name)
        if here is not None:
            return Path(here)
        there = self._others.get(name)
        return None if there is None else Path(there)

    async def _exchange(self) -> None:
        if self._share is None:
            return
        mine = {name: str(folder) for name, folder in extension_dirs.items()}
        try:
            self._others = await asyncio.wait_for(self._share(mine), _EXCHANGE_TIMEOUT)
        except TimeoutError:
            self._published = 0  # tell again with the next page


_EXCHANGE_TIMEOUT = 2.0
"""Seconds; the gateway answers in microseconds unless it is being restarted."""
