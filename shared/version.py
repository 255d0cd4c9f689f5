"""The versions, where every module may import them from without importing what imports that module."""

__all__ = ["WIRE_VERSION", "__version__"]

__version__ = "0.1.0"

WIRE_VERSION = 2
"""Of what our processes say to each other and store in Redis. Add one whenever a message, an envelope, a key or a
stored value changes its form or its meaning; `tests/wire` pins the bytes of each."""
