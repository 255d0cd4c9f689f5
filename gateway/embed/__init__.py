"""Bokeh apps served from inside a Python program: `from aperture import Server`.

Beside the command line this is the second place that imports both gateway and worker. Nothing else in the package
imports it; `aperture.__getattr__` loads it on first use, so that `import aperture` stays light.
"""

from __future__ import annotations

from aperture.gateway.embed.server import Server

__all__ = ["Server"]
