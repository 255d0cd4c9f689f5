"""What a browser is sent to begin with: the page of a session, and the script that embeds it in another page."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from bokeh.core.templates import AUTOLOAD_JS
from bokeh.embed.bundle import Script
from bokeh.embed.elements import html_page_for_render_items, script_for_render_items
from bokeh.embed.util import RenderItem

from aperture.protocol.json_text import presentable
from aperture.worker.http.resources import PageResources
from aperture.worker.session.session import Session

__all__ = ["AUTOLOAD", "PAGE", "render", "server_of"]

PAGE = "page"
AUTOLOAD = "autoload"


def render(resources: PageResources, session: Session, kind: str, arguments: Mapping[str, str]) -> str:
    """The page, or the script, with a fresh token of the session.

    Args:
        resources: where the page loads BokehJS from.
        session: that it shows.
        kind: `PAGE` or `AUTOLOAD`.
        arguments: of the script: `element`, and perhaps `app-path`, `absolute-url` and `resources`.

    Raises:
        ValueError: there is no such kind.
    """
    if kind == PAGE:
        return presentable(_page(resources, session))
    if kind == AUTOLOAD:
        return presentable(_autoload(resources, session, arguments))
    raise ValueError(f"cannot render a {kind[:20]!r}")


def _page(resources: PageResources, session: Session) -> str:
    document = session.document
    return html_page_for_render_items(
        resources.bundle(),
        {},
        [RenderItem(token=session.token, roots=document.roots, use_for_title=True)],
        document.title,
        template=document.template,
        template_variables=document.template_variables or {},
    )


def _autoload(resources: PageResources, session: Session, arguments: Mapping[str, str]) -> str:
    element_id = arguments["element"]
    absolute_url = arguments.get("absolute-url")
    with_resources = arguments.get("resources") != "none"
    bundle = resources.bundle(server_of(absolute_url), with_resources=with_resources)
    item = RenderItem(token=session.token, elementid=element_id, use_for_title=False)  # type: ignore[arg-type]
    app_path = arguments.get("app-path", "/")
    bundle.add(Script(script_for_render_items({}, [item], app_path=app_path, absolute_url=absolute_url)))
    script: str = AUTOLOAD_JS.render(bundle=bundle, elementid=element_id)
    return script


def server_of(absolute_url: str | None) -> str | None:
    """The server that an embedding page names; None if it names none.

    Raises:
        ValueError: it is no URL.
    """
    if not absolute_url:
        return None
    parts = urlsplit(absolute_url)
    return f"{parts.scheme}://{parts.netloc}"
