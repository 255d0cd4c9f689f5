"""Bokeh applications made by Panel's own handlers, of the files of apps that are written with Panel."""

from __future__ import annotations

from bokeh.application import Application

from aperture.worker.panel.adapter import install

__all__ = ["built"]


def built(file: str, arguments: list[str]) -> Application:
    """The app of a script, a notebook, a Markdown file or a folder, compiled and not yet run.

    Raises:
        ConfigurationError: Panel is not installed, or does not fit.
        RuntimeError: the file cannot be compiled, or a folder's hooks fail.
        ValueError: it is no app.
        OSError: it cannot be read.
    """
    install()
    from panel.io.application import build_single_handler_application

    application: Application = build_single_handler_application(file, arguments)
    return application
