"""What Panel serves beside its apps: the files that components bring along, and its own list of apps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from mimetypes import guess_type
from typing import Any

from panel.config import config
from panel.io.resources import CDN_DIST, COMPONENT_PATH
from panel.io.rest import ParamHandler
from panel.io.server import ComponentResourceHandler
from tornado.web import HTTPError, RequestHandler, authenticated

from aperture.paths import quoted
from aperture.protocol.naming import is_session_id
from aperture.worker.handler_context import Services
from aperture.worker.http.admission import named_in_url
from aperture.worker.http.auth import AuthenticatedHandler
from aperture.worker.http.pages import answered_503
from aperture.worker.http.path_names import has_parameters
from aperture.worker.http.render import FILE_OF, file_in
from aperture.worker.panel.components import APP_ARGUMENT
from aperture.worker.panel.session_info import PublishedHandler
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.host import AppHost, Origin

__all__ = ["COMPONENTS", "IndexHandler", "with_our_handlers"]


class ComponentHandler(ComponentResourceHandler):  # type: ignore[misc]
    """`GET /components/{module}/{class}/{attribute}/{file}`: only files that the class itself names.

    A class of an installed package is found here; one of an app in the session that the address names, wherever it is.
    """

    def initialize(self, hosts: Mapping[str, AppHost], services: Services) -> None:
        super().initialize()
        self._hosts = hosts
        self._services = services

    async def get(self, path: str, include_body: bool = True) -> None:
        host, session_id = self._hosts.get(self.get_query_argument(APP_ARGUMENT, "")), named_in_url(self.request)
        if host is None or session_id is None or not self._is_ours(session_id):
            await super().get(path, include_body)
            return
        with answered_503():
            found = await self._file(host, session_id, path)
        if found is None:
            raise HTTPError(404)
        self.set_header("Content-Type", guess_type(path)[0] or "application/octet-stream")
        self.finish(found)

    def compute_etag(self) -> str | None:
        # Panel's goes by the name of a file, of which one from elsewhere has none.
        etag: str | None = (
            super().compute_etag() if hasattr(self, "absolute_path") else RequestHandler.compute_etag(self)
        )
        return etag

    def _is_ours(self, session_id: str) -> bool:
        return is_session_id(session_id) and self._services.tokens.check_session_id(session_id)

    async def _file(self, host: AppHost, session_id: str, path: str) -> bytes | None:
        if not await self._services.access.lives(session_id, host):
            return None  # it is not made again for a file
        arrival = Arrival(host, session_id, lambda: Origin(None, {}))
        rendered = await self._services.access.render(arrival, FILE_OF, {"path": path})
        return file_in(rendered if isinstance(rendered, bytes) else rendered.encode())


def with_our_handlers(patterns: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """Panel's routes, without those that we have for all apps, and with our handlers in place of Panel's.

    Args:
        patterns: as for Tornado: a pattern, a handler, and perhaps its arguments.
    """
    for pattern, handler, *rest in patterns:
        if handler is not ComponentResourceHandler:
            yield pattern, PublishedHandler if handler is ParamHandler else handler, *rest


COMPONENTS = (f"/{COMPONENT_PATH}(.*)", ComponentHandler)


class IndexHandler(AuthenticatedHandler):
    """`GET {prefix}/`: the apps by their titles, by a Tornado template with Panel's variables.

    Args:
        routes: of the apps.
        index: the template.
        redirect: whether a single app is gone to at once.
    """

    def initialize(self, routes: Iterable[str], index: str, redirect: bool) -> None:
        self._routes = tuple(routes)
        self._index = index
        self._redirect = redirect

    @authenticated
    async def get(self) -> None:
        prefix = self.settings["prefix"]
        if self._redirect and len(self._routes) == 1 and not has_parameters(self._routes[0]):
            self.redirect(prefix + quoted(self._routes[0]))
            return
        items = sorted(map(self._item, self._routes), key=lambda item: item[1])
        self.render(self._index, prefix=prefix, items=items, PANEL_CDN=CDN_DIST)

    head = get

    def _item(self, route: str) -> tuple[str, Any]:
        """The address and the title, which `--index-titles` gives by the route."""
        prefix = self.settings["prefix"]
        address = route if not prefix or self.request.path.endswith("/") else prefix + route
        return address, config.index_titles.get(route, route[1:])
