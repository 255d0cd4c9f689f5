"""Bokeh apps served from inside a Python program: `from aperture import Server`.

Beside the command line this is the second place that knows both gateway and worker, and nothing else in the package
imports it: whoever wants `import aperture` to be light gets it by `aperture.__getattr__`.
"""

from __future__ import annotations

from aperture.gateway.embed.server import Server

__all__ = ["Server"]
