"""Panel, imported and made to run on this server. In every process that builds apps with it, before the first is built.

Panel's own import replaces classes of Bokeh's for good; nothing of Bokeh's server is replaced here beyond that.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

from packaging.version import Version

from aperture.errors import ConfigurationError
from aperture.worker.session.framework import Framework

__all__ = ["EXTRA", "TRIED", "install", "is_installed", "panel_framework"]

log = logging.getLogger(__name__)

TRIED = Version("1.9.4")
"""The newest Panel that the adapter's tests have run with."""

EXTRA = "pip install 'bokeh-aperture[panel]'"

_installed = False


def is_installed() -> bool:
    """Whether Panel can be imported."""
    return find_spec("panel") is not None


def install() -> None:
    """Import Panel, and have it use this server. Idempotent.

    Raises:
        ConfigurationError: there is no Panel, or one that lacks what the adapter needs.
    """
    global _installed
    if _installed:
        return
    if not is_installed():
        raise ConfigurationError(f"an app is written with Panel, which is not installed: {EXTRA}")
    try:
        _adapt()
    except (AttributeError, ImportError) as problem:
        raise ConfigurationError(f"this Panel does not fit this server, which was tried with {TRIED}: {problem}") from (
            problem
        )
    _installed = True


def panel_framework() -> Framework:
    """What the server must know of apps that are written with Panel.

    Raises:
        ConfigurationError: as `install`.
    """
    install()
    from aperture.worker.panel.panel_framework import PANEL

    return PANEL


def _adapt() -> None:
    import panel.io.application
    import panel.io.server
    from panel.config import config

    # What these need of Panel is missed now, and not when the first session is made.
    from aperture.worker.panel import components, connections, data_models, panel_framework, session_info, users

    version = Version(panel.__version__)
    if version.release[:2] > TRIED.release[:2]:
        log.warning("Panel %s is newer than %s, the newest that was tried: some of it may not work", version, TRIED)
    # A page whose worker was replaced comes back by itself. What an app sets in its sessions wins, and so does what a
    # program sets after this.
    if config.reconnect is False:
        config.reconnect = True
    connections.install()
    components.install()
    data_models.install()
    session_info.install()
    users.install()
    del panel_framework
