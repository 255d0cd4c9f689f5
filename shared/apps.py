"""Bokeh applications made of files, and of Bokeh's own classes whatever else is imported.

Panel, when it is imported, puts classes of its own where `bokeh.command.util` and Bokeh's handler of folders look for
theirs. Whether they are found there depends on when an app is built: before the first import of Panel they are not, in
a worker that takes another's place they are. So it is read from an app's files which of the two it is built with, and
every worker builds it of the same: here of Bokeh's own, in `aperture.worker.panel` of Panel's.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from bokeh.application.application import Application
from bokeh.application.handlers.directory import DirectoryHandler
from bokeh.application.handlers.handler import Handler
from bokeh.application.handlers.notebook import NotebookHandler
from bokeh.application.handlers.script import ScriptHandler

__all__ = ["built", "is_panels", "route_of", "runs_when_built"]

log = logging.getLogger(__name__)

_HOOKS = ("app_hooks.py", "server_lifecycle.py")
_KINDS: dict[str, type[ScriptHandler] | type[NotebookHandler]] = {".py": ScriptHandler, ".ipynb": NotebookHandler}


def built(file: str, arguments: list[str]) -> Application:
    """The app of a script, a notebook or a folder, compiled and not yet run; a folder's hooks are run.

    Raises:
        RuntimeError: it cannot be compiled, or its hooks fail.
        ValueError: it is no app.
        OSError: it cannot be read.
    """
    path = os.path.abspath(os.path.expanduser(file))
    handler = _folder(path, arguments) if os.path.isdir(path) else _code(path, arguments)
    if handler.failed:
        raise RuntimeError(f"Error loading {path}:\n\n{handler.error}\n{handler.error_detail}")
    return Application(handler)


def runs_when_built(file: str) -> bool:
    """Whether building the app runs code of its: a folder's hooks."""
    return any((Path(file).expanduser() / hooks).is_file() for hooks in _HOOKS)


def route_of(file: str) -> str:
    """Where the app of a script, a notebook or a folder is served."""
    path = Path(os.path.abspath(os.path.expanduser(file)))
    return f"/{path.name if path.is_dir() else path.stem}"


def is_panels(application: Application) -> bool:
    """Whether an application was made by Panel's means."""
    return type(application).__module__.startswith("panel.")


def _code(path: str, arguments: list[str]) -> Handler:
    kind = _KINDS.get(Path(path).suffix)
    if kind is None:
        raise ValueError(f"not a '.py' script or '.ipynb' notebook: {path}")
    if Path(path).name == "main.py":
        log.warning("%s is served without what is in its folder: hooks, theme, static files; name the folder", path)
    return kind(filename=path, argv=arguments)


def _folder(path: str, arguments: list[str]) -> Handler:
    folder = DirectoryHandler(filename=path, argv=arguments)
    kind = _KINDS[Path(folder._main).suffix]
    if type(folder._main_handler) is not kind:
        folder._main_handler = kind(filename=folder._main, argv=arguments, package=folder._package)
    return folder
