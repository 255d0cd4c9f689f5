"""The dashboard among the apps of a worker: its application, where it reads, and its life.

Every worker takes part in the exchange of figures, so that a node that was started with `--admin` shows those that were
not. Without `--admin` nothing else is done, and nothing that draws is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document

from aperture.bus.bus import Bus
from aperture.config.settings import DASHBOARD_ROUTE, Settings
from aperture.errors import ConfigurationError
from aperture.metrics import Reading
from aperture.worker.dashboard.exchange import FigureExchange
from aperture.worker.dashboard.reader import FigureReader
from aperture.worker.dashboard.sampler import Sampler

__all__ = ["Dashboard", "with_dashboard"]


class Dashboard:
    """A worker's part in the dashboard.

    Args:
        settings: of the node.
        index: of the worker.
        read: this worker's own readings.
        bus: the way to other nodes and this worker's name there, if there are any.
    """

    def __init__(
        self, settings: Settings, index: int, read: Callable[[], Iterable[Reading]], bus: tuple[Bus, str] | None
    ) -> None:
        reader = FigureReader(settings.node, settings.metrics_dir, read, index)
        self._exchange = None if bus is None else FigureExchange(*bus, reader)
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
        if self._exchange is not None:
            self._exchange.start()

    def stop(self) -> None:
        """Answer no more. Harmless twice."""
        if self._exchange is not None:
            self._exchange.stop()


def with_dashboard(
    applications: Mapping[str, Application], settings: Settings, fill: Callable[[Document], None]
) -> dict[str, Application]:
    """The apps, and the dashboard if it is wanted.

    Raises:
        ConfigurationError: an app has its route, or nothing is measured.
    """
    if not settings.dashboard:
        return dict(applications)
    if DASHBOARD_ROUTE in applications:
        raise ConfigurationError(f"--admin serves the dashboard at {DASHBOARD_ROUTE}, where an app is: rename the app")
    if not settings.metrics:
        raise ConfigurationError("--admin shows what --disable-metrics leaves out: give one of them")
    return {**applications, DASHBOARD_ROUTE: Application(FunctionHandler(fill))}
