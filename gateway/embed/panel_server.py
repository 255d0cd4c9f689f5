"""`pn.serve` on this server: what `aperture.panel.serve` is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aperture.config.keywords import ServerPlan
from aperture.gateway.embed.server import Server

__all__ = ["serve"]


class PanelServer(Server):
    """A server as `pn.serve` makes it and asks of it."""

    def __init__(self, applications: Any, **keywords: Any) -> None:
        from aperture.worker.panel.serving import with_panels_routes

        super().__init__(applications, **with_panels_routes(keywords, list(applications)))

    def _planned(
        self, keywords: dict[str, Any], http_server_kwargs: Mapping[str, Any] | None, *, on_loop: bool
    ) -> ServerPlan:
        # Any picture: Bokeh, and so our own option, takes an .ico file only.
        icon = keywords.pop("ico_path", None)
        plan = super()._planned(keywords, http_server_kwargs, on_loop=on_loop)
        return plan if icon is None else replace(plan, settings=replace(plan.settings, ico_path=os.fspath(icon)))

    @property
    def _tornado(self) -> object:
        """Panel keeps what it knows of a server by its routes; with several processes those are in the workers."""
        return self if self._several else self.application


def serve(panels: Any, **keywords: Any) -> Any:
    """Serve Panel objects from inside a program: `pn.serve`, with this server in place of Panel's.

    Args:
        panels: a Panel object, a function that returns one, or several of these by route.
        **keywords: those of `pn.serve`, with `threaded` and `start`, and every keyword of `aperture.Server`.

    Returns:
        The server, or with `threaded=True` the thread that it runs in.

    Raises:
        ConfigurationError: Panel is not installed, or a keyword is not one; a ValueError.
        OSError: the port is taken, or binding it is not permitted.
    """
    from aperture.worker.panel.serving import serve as serve_by

    return serve_by(PanelServer, panels, **keywords)
