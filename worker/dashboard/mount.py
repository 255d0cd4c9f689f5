"""The dashboard among the apps of a worker: its application, its sources, its start and stop.

Every worker answers requests for figures, so that a node with `--admin` shows the nodes without. Without `--admin` a
worker does no more than that, and does not import the drawing code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document

from aperture.config.settings import DASHBOARD_ROUTE, Settings
from aperture.errors import ConfigurationError
from aperture.worker.dashboard.exchange import FigureExchange, NoExchange, Reads
from aperture.worker.dashboard.sampler import Sampler

__all__ = ["Dashboard", "with_dashboard"]


class Dashboard:
    """A worker's part in the dashboard.

    Args:
        reader: of this node's figures.
        exchange: asks other nodes for theirs, and answers them.
    """

    def __init__(self, reader: Reads, exchange: FigureExchange | NoExchange) -> None:
        self._exchange = exchange
        self._reader = reader
        self._sampler: Sampler | None = None

    def fill(self, document: Document) -> None:
        """Make the page of a new session; the app's function. Runs on the event loop."""
        from aperture.worker.dashboard.page import Page

        if self._sampler is None:
            self._sampler = Sampler(DASHBOARD_ROUTE, self._reader, self._exchange)
        Page(self._sampler).fill(document)

    def start(self) -> None:
        """Answer other nodes."""
        self._exchange.start()

    def stop(self) -> None:
        """Stop answering. Idempotent."""
        self._exchange.stop()


def with_dashboard(
    applications: Mapping[str, Application], settings: Settings, fill: Callable[[Document], None]
) -> dict[str, Application]:
    """The apps, and the dashboard if the settings ask for it.

    Raises:
        ConfigurationError: an app has its route, or metrics are off.
    """
    if not settings.dashboard:
        return dict(applications)
    if DASHBOARD_ROUTE in applications:
        raise ConfigurationError(f"--admin serves the dashboard at {DASHBOARD_ROUTE}, where an app is: rename the app")
    if not settings.metrics:
        raise ConfigurationError("--admin shows what --disable-metrics leaves out: give one of them")
    return {**applications, DASHBOARD_ROUTE: Application(FunctionHandler(fill))}
