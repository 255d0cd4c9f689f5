"""Where pages load BokehJS from, and what extensions bring along."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

from bokeh.core.has_props import HasProps
from bokeh.embed.bundle import Bundle, bundle_for_objs_and_resources, extension_dirs
from bokeh.resources import Resources
from bokeh.settings import settings as bokeh_settings
from tornado.web import StaticFileHandler

from aperture.worker.document.classes import only_packaged_models
from aperture.worker.http.frame import PageFrame
from aperture.worker.http.page_form import PageForm

__all__ = ["Extensions", "PageResources"]

ShareExtensions = Callable[[dict[str, str]], Awaitable[dict[str, str]]]
"""Tells the other workers of asset folders and returns what all of them know."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    """What was found for pages of one kind, while the model classes are these."""

    classes: frozenset[str]
    bundle: Bundle
    forms: dict[int, PageForm] = field(default_factory=dict)
    """By the number of roots."""
    frames: list[PageFrame] = field(default_factory=list)
    """One, once it was asked for: of a page that is sent before its session."""


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
        self._rendered: dict[tuple[str | None, bool], _Rendered] = {}

    def bundle(self, server_url: str | None = None, *, with_resources: bool = True) -> Bundle:
        """What a page needs; the caller may add to it.

        Args:
            server_url: scheme and host to load from; None means the page's own server.
            with_resources: False leaves out BokehJS itself, which the page then loads by other means.
        """
        bundle = copy.copy(self._of(server_url, with_resources=with_resources).bundle)
        for name, parts in vars(bundle).items():
            if isinstance(parts, list):
                setattr(bundle, name, list(parts))
        return bundle

    def form(self, roots: int) -> PageForm:
        """The page, loaded from its own server, of a document with so many roots."""
        rendered = self._of(None, with_resources=True)
        form = rendered.forms.get(roots)
        if form is None:
            if len(rendered.forms) > _CACHED_FORMS:
                rendered.forms.clear()
            form = rendered.forms[roots] = PageForm.render(rendered.bundle, roots)
        return form

    def frame(self) -> PageFrame:
        """The page, loaded from its own server, without a document."""
        rendered = self._of(None, with_resources=True)
        if not rendered.frames:
            rendered.frames.append(PageFrame(rendered.bundle, self.files_of(rendered.bundle)))
        return rendered.frames[0]

    def contents(self) -> object:
        """Equal for two moments at which pages load the same."""
        return vars(self._of(None, with_resources=True).bundle)

    def files_of(self, bundle: Bundle) -> tuple[str, ...]:
        """Of the scripts that a page loads with this bundle, those that come from this server."""
        return tuple(map(str, bundle.js_files)) if bokeh_settings.resources(default="server") in _OURS else ()

    def _of(self, server_url: str | None, *, with_resources: bool) -> _Rendered:
        classes = frozenset(HasProps.model_class_reverse_map)
        key = (server_url if with_resources else None, with_resources)
        known = self._rendered.get(key)
        if known is None or known.classes != classes:
            with only_packaged_models():
                resources = self.resources(server_url) if with_resources else None
                bundle = bundle_for_objs_and_resources(None, resources)
            if len(self._rendered) > _CACHED_BUNDLES:
                self._rendered.clear()
            known = self._rendered[key] = _Rendered(classes, bundle)
        return known

    def resources(self, server_url: str | None = None) -> Resources:
        """Where BokehJS is loaded from, by Bokeh's setting of that name."""
        mode = bokeh_settings.resources(default="server")
        if mode not in _OURS:
            return Resources(mode=mode)
        root = urljoin(server_url or self._absolute_url or "/", self._prefix)
        return Resources(mode=mode, root_url=root, path_versioner=versioned)


_OURS = ("server", "server-dev")
"""Bokeh's settings by which pages load BokehJS from this server."""


_CACHED_BUNDLES = 64
"""Server URLs come from the query of autoload.js, so from anybody."""


_CACHED_FORMS = 16
"""An app may have any number of roots."""


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
