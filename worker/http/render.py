"""What a browser is sent to begin with: the page of a session, and the script that embeds it in another page."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from bokeh.core.templates import FILE

from aperture.protocol.json_text import presentable
from aperture.worker.http.frame import script_frame
from aperture.worker.http.page_form import fits
from aperture.worker.http.resources import PageResources
from aperture.worker.session.early import Making, is_plain
from aperture.worker.session.framework import Embedding
from aperture.worker.session.session import Session

__all__ = [
    "ADDRESS",
    "AUTOLOAD",
    "EARLY",
    "FILE_OF",
    "LOADED",
    "PAGE",
    "file_in",
    "render",
    "render_early",
    "server_of",
]

PAGE = "page"
AUTOLOAD = "autoload"
FILE_OF = "file"

LOADED = "loaded"
"""No page, but the word of an early one to the worker that makes its session: its scripts are under way."""

ADDRESS = "address"
"""An argument of it: where they go to."""

EARLY = "early"
"""An argument of either, for the worker that has the session: it may be sent before the session is made."""


def render(resources: PageResources, session: Session, kind: str, arguments: Mapping[str, str]) -> str | bytes:
    """The page, or the script, with a fresh token of the session; or a file that its code brings along.

    Args:
        resources: where the page loads BokehJS from.
        session: that it shows.
        kind: `PAGE`, `AUTOLOAD` or `FILE_OF`; `LOADED`, which means nothing to a session that is made.
        arguments: of the script: `element`, and perhaps `app-path`, `absolute-url` and `resources`; of a file: `path`.

    Raises:
        ValueError: there is no such kind.
    """
    if kind == PAGE:
        return _page(resources, session)
    if kind == AUTOLOAD:
        return presentable(_autoload(resources, session, arguments))
    if kind == FILE_OF:
        return _packed(session.framework.file(session.document, arguments["path"]))
    if kind == LOADED:
        return b""
    raise ValueError(f"cannot render a {kind[:20]!r}")


_NONE, _SOME = b"-", b"+"


def _packed(content: bytes | None) -> bytes:
    """As bytes between workers, where a file may be empty, or none."""
    return _NONE if content is None else _SOME + content


def file_in(rendered: bytes) -> bytes | None:
    """The file that `render` was asked for; None if there is none."""
    return rendered[1:] if rendered.startswith(_SOME) else None


def render_early(resources: PageResources, making: Making, token: str, kind: str, arguments: Mapping[str, str]) -> str:
    """The page, or the script, of a session that is being made, which takes note of it.

    Args:
        resources: where the page loads BokehJS from.
        making: the session.
        token: of the session.
        kind: `PAGE` or `AUTOLOAD`.
        arguments: as `render` takes them.
    """
    if kind == PAGE:
        loads = resources.contents()
        # A session may define models that bring scripts of their own: then the page that was sent lacks them.
        making.frames.append((token, lambda document: is_plain(document) and resources.contents() == loads))
        return resources.frame().fill(token)
    embedding = _embedding(arguments)
    bundle = resources.bundle(embedding.server_url, with_resources=embedding.with_resources)
    making.frames.append((token, lambda document: True))
    return script_frame(bundle, resources.files_of(bundle), token, embedding)


def _page(resources: PageResources, session: Session) -> str:
    document = session.document
    title, token, root_ids = document.title, session.token, [root.id for root in document.roots]
    # A template of the app's own may do anything with what it gets.
    if session.framework.plain_pages and document.template is FILE and fits(title, token, root_ids):
        return resources.form(len(root_ids)).fill(title, token, root_ids)
    return presentable(session.framework.page(resources, document, token))


def _autoload(resources: PageResources, session: Session, arguments: Mapping[str, str]) -> str:
    return session.framework.autoload(
        resources,
        session.document,
        session.token,
        _embedding(arguments),
    )


def _embedding(arguments: Mapping[str, str]) -> Embedding:
    return Embedding(
        element_id=arguments["element"],
        app_path=arguments.get("app-path", "/"),
        absolute_url=arguments.get("absolute-url"),
        server_url=server_of(arguments.get("absolute-url")),
        with_resources=arguments.get("resources") != "none",
    )


def server_of(absolute_url: str | None) -> str | None:
    """The server that an embedding page names; None if it names none.

    Raises:
        ValueError: it is no URL.
    """
    if not absolute_url:
        return None
    parts = urlsplit(absolute_url)
    return f"{parts.scheme}://{parts.netloc}"
