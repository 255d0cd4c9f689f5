"""`--dev`: start over when a file of the app changes.

Only a new process image forgets everything, modules and supervisor alike, so the node is drained and the same command
is executed again. Modification times are polled: a watch through the kernel would need a thread or a loop in the
supervisor, and an app has few files. Of modules outside the app's folder, those are watched that the supervisor itself
has imported; modules that only a worker imports are not seen.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

__all__ = ["Changes", "execute_again", "imported_files", "is_reload", "watched_files"]

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
_SUFFIXES = frozenset({".py", ".html", ".css", ".yaml"})
_OF_OTHERS = frozenset({"site-packages", "dist-packages", "node_modules", "__pycache__"})
"""Folders of installed or generated files. Like hidden folders, they hold thousands of files that are not edited."""

_ENVIRONMENT = "pyvenv.cfg"
"""Marks a virtual environment, whatever its name."""

_MARK = "_APERTURE_RELOADED"
"""Set for the process that replaces this one, so that it does not open the browser a second time."""

Snapshot = dict[Path, tuple[int, int]]


def watched_files(app: str, further: Sequence[str] = ()) -> Iterator[Path]:
    """The files whose change restarts the node.

    Args:
        app: a script or notebook (then the modules beside it count, too), or a folder.
        further: the paths given to `--dev`.
    """
    path = Path(app).expanduser().absolute()
    if path.is_dir():
        yield from _files_below(path)
    else:
        yield path
        yield from path.parent.glob("*.py")
    yield from map(Path, further)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_of_others(parent, name)]
        yield from (Path(parent, name) for name in files if os.path.splitext(name)[1] in _SUFFIXES)


def _is_of_others(parent: str, name: str) -> bool:
    return name.startswith(".") or name in _OF_OTHERS or os.path.exists(os.path.join(parent, name, _ENVIRONMENT))


def imported_files() -> Iterator[Path]:
    """The modules that this process has imported, except for the standard library and installed packages."""
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and not file.startswith(libraries):
            path = Path(file)
            if _OF_OTHERS.isdisjoint(path.parts):
                yield path


class Changes:
    """Whether the app's files are still as they were when this object was made. Runs in the supervisor."""

    def __init__(self, app: str, further: Sequence[str] = ()) -> None:
        self._app = app
        self._further = further
        self._before = self._snapshot()
        self._imported: Snapshot = {}
        """Modules from elsewhere, as they were when first seen; they are imported while the node is being made."""
        self.seen = False

    def __call__(self) -> bool:
        """Check the files; True from the first difference on."""
        if not self.seen:
            now = self._snapshot()
            different = {path for path in self._before.keys() | now if self._before.get(path) != now.get(path)}
            imported = _states(imported_files())
            different |= {path for path, state in imported.items() if self._imported.setdefault(path, state) != state}
            if different:
                log.info("%s changed, restarting", ", ".join(path.name for path in sorted(different)))
                self.seen = True
        return self.seen

    def wait(self) -> None:
        """Return once something has changed; an interrupt or SIGTERM ends the process as usual."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log.info("waiting for a change of the app's files")
        while not self():
            time.sleep(POLL_SECONDS)

    def _snapshot(self) -> Snapshot:
        return _states(watched_files(self._app, self._further))


def _states(paths: Iterable[Path]) -> Snapshot:
    found: Snapshot = {}
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            continue  # editors replace files, so one may be missing for a moment
        found[path] = (state.st_mtime_ns, state.st_size)
    return found


def is_reload() -> bool:
    """Whether this process replaces one that saw a change."""
    return _MARK in os.environ


def execute_again() -> NoReturn:
    """Replace this process by a new one with the same command line. Only the standard descriptors stay open."""
    logging.shutdown()
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _MARK: "1"})
