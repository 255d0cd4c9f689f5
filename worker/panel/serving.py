"""`pn.serve`, with another server under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import panel.io.server as panel_server
from panel.io.server import INDEX_HTML

from aperture.worker.panel.adapter import install
from aperture.worker.panel.routes import IndexHandler, with_our_handlers

__all__ = ["serve", "with_panels_routes"]


def serve(make_server: Callable[..., Any], panels: Any, **keywords: Any) -> Any:
    """Serve Panel objects as `pn.serve` does, by a server that `make_server` makes.

    Args:
        make_server: called as Panel's own `Server` is.
        panels: a Panel object, a function that returns one, or several of these by route.
        **keywords: those of `pn.serve`.

    Returns:
        What `pn.serve` returns: the server, or with `threaded` its thread.
    """
    install()
    original = panel_server.get_server

    def get_server(*args: Any, **kwargs: Any) -> Any:
        # With `threaded` this runs in a thread, when `serve` has returned. It blocks for as long as the server runs, so
        # that Panel's own class is put back as soon as it was asked for.
        with _replaced("Server", _first(make_server)):
            return original(*args, **kwargs)

    with _replaced("get_server", get_server):
        return panel_server.serve(panels, **keywords)


def with_panels_routes(keywords: dict[str, Any], routes: list[str]) -> dict[str, Any]:
    """The keywords of a server, with Panel's routes as they are here.

    The page that lists the apps is by Panel's template, or by one with its variables.
    """
    index = keywords.pop("index", None) or INDEX_HTML
    if "extra_patterns" in keywords:
        keywords = {**keywords, "extra_patterns": list(with_our_handlers(keywords["extra_patterns"]))}
    if not keywords.get("use_index", True) or "/" in routes:
        return keywords
    root = {"routes": routes, "index": str(index), "redirect": keywords.get("redirect_root", True)}
    patterns = [(r"/?", IndexHandler, root), *keywords.get("extra_patterns", ())]
    return {**keywords, "use_index": False, "extra_patterns": patterns}


_PANELS_SERVER = panel_server.Server


def _first(make_server: Callable[..., Any]) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        panel_server.Server = _PANELS_SERVER
        return make_server(*args, **kwargs)

    return make


@contextmanager
def _replaced(name: str, value: Any) -> Iterator[None]:
    before = getattr(panel_server, name)
    setattr(panel_server, name, value)
    try:
        yield
    finally:
        setattr(panel_server, name, before)
