"""The version, where every module may import it from without importing what imports that module."""

__all__ = ["__version__"]

__version__ = "0.1.0"
