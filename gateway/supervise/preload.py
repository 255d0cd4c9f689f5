"""Imports before the fork what each worker would import after it, so that workers start fast and share the memory.

Runs in the supervisor. Only modules outside the apps' own folders are imported: an app's own modules belong to the
worker, which may have to reload them and must report their failures as the app's. An import that fails here is left to
the worker, whose traceback names the app.

Nothing is imported that the app might have prepared for: an environment variable, a search path or a `setup()` may give
an import another meaning. So an app's imports are followed, in order and through its own modules, up to the first
statement that could do such a thing. Nor is anything imported that starts a thread or a process or opens a socket: a
trial in a fork (`aperture.gateway.supervise.trial`) detects that, and leaves the import to the workers, which do it
before they serve. `--no-preload` turns all of this off.
"""

from __future__ import annotations

import ast
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from aperture.gateway.supervise.trial import first_unfit, left_behind
from aperture.imports import parsed

__all__ = ["ImportedName", "foreign_imports", "preload"]

log = logging.getLogger(__name__)

ALWAYS = ("bokeh.models", "bokeh.plotting", "bokeh.layouts", "bokeh.embed", "bokeh.application", "numpy")
IF_INSTALLED = ("pandas",)
"""Bokeh looks for it whenever a column is set, so nearly every app imports it sooner or later."""

_ENTRY_POINTS = (
    "app_hooks.py",
    "server_lifecycle.py",
    "request_handler.py",
    "__init__.py",
    "main.py",
    "main.ipynb",
)
"""What Bokeh runs of a folder, in this order; other files matter only if one of these imports them."""

_LOAD_HOOK = "on_server_loaded"
"""A function that runs between the hooks' own imports and those of main.py."""

_MOST_FILES = 500
"""A bound on the walk through an app's own modules; beyond it a little less memory is shared."""


@dataclass(frozen=True, slots=True)
class ImportedName:
    """`import module`, or `from module import name`."""

    module: str
    name: str | None = None

    def __str__(self) -> str:
        return self.module if self.name is None else f"{self.module}.{self.name}"


def preload(apps: Sequence[str], *, foreign: bool = True) -> None:
    """Import Bokeh, numpy, and what the apps import from outside their own folders.

    Args:
        apps: scripts, notebooks and folders.
        foreign: False imports only what every server needs, and nothing on behalf of the apps.
    """
    for module in ALWAYS:
        _import(ImportedName(module))
    if not foreign:
        return
    for module in IF_INSTALLED:
        if find_spec(module) is not None:
            _import(ImportedName(module))
    sequences = [foreign_imports(app) for app in apps]
    unfit, look = _unfit(sequences), left_behind()
    for _ in _imports(sequences, unfit):
        pass
    if (reason := look()) is not None:
        log.warning("an app's import %s one time and not another; --no-preload leaves imports to the workers", reason)


def foreign_imports(app: str) -> list[ImportedName]:
    """The imports from elsewhere that an app and its modules run before anything else, in order and once each."""
    path = Path(app).expanduser().absolute()
    if path.is_dir():
        entries = [path / name for name in _ENTRY_POINTS]
        return _Imports(path).followed([entry for entry in entries if entry.is_file()])
    return _Imports(path.parent).followed([path])


class _Imports:
    """Follows imports through the modules of one app's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[Path] = set()
        self._found: dict[ImportedName, None] = {}

    def followed(self, entries: Sequence[Path]) -> list[ImportedName]:
        """The imports from elsewhere, in the order in which they would run."""
        all(self._follow(entry) for entry in entries)
        return list(self._found)

    def _follow(self, file: Path) -> bool:
        """Whether the code after this file still runs in an unprepared process: the file did nothing but import and
        define."""
        if file in self._seen:
            return True
        self._seen.add(file)
        tree = parsed(file)
        if tree is None or len(self._seen) > _MOST_FILES:
            return False
        goes_on = all(self._pass(statement) for statement in tree.body)
        return goes_on and not _defines_load_hook(tree)

    def _pass(self, node: ast.stmt) -> bool:
        """Whether the code after this statement still runs in an unprepared process."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            return all(self._import(imported) for imported in _names(node))
        if isinstance(node, ast.Try | ast.TryStar) and not node.finalbody and _only_imports(node.body):
            # Whether a handler runs is known only at run time; if one could prepare something, nothing after it is
            # imported.
            handled = [statement for handler in node.handlers for statement in handler.body]
            return all(map(self._pass, node.body)) and all(map(_is_plain, [*handled, *node.orelse]))
        return _is_plain(node)

    def _import(self, imported: ImportedName) -> bool:
        own = _own_files(self._folder, imported)
        if own is None:
            self._found[imported] = None
            return True
        return all(self._follow(file) for file in own)


def _only_imports(body: Sequence[ast.stmt]) -> bool:
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def _is_plain(node: ast.stmt) -> bool:
    """Whether a statement cannot influence a later import: definitions, constants, docstrings."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Pass):
        return True
    if isinstance(node, ast.ClassDef):
        return all(map(_is_plain, node.body))
    if isinstance(node, ast.If):
        return _is_for_others(node.test) and all(map(_is_plain, node.orelse))
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(isinstance(target, ast.Name) for target in targets) and not _calls(node.value)
    return False


def _calls(value: ast.expr | None) -> bool:
    return value is not None and any(isinstance(node, ast.Call) for node in ast.walk(value))


def _defines_load_hook(tree: ast.Module) -> bool:
    return any(getattr(node, "name", None) == _LOAD_HOOK for node in tree.body)


def _own_files(folder: Path, imported: ImportedName) -> list[Path] | None:
    """The files in the app's folder that this imports; None if it is not one of the app's own modules."""
    parts = [part for part in imported.module.split(".") if part]
    # In an app's folder a relative import can only mean a module of that folder.
    relative = imported.module.startswith(".")
    if not relative and not (folder / parts[0]).is_dir() and not (folder / f"{parts[0]}.py").is_file():
        return None
    dotted = parts if imported.name is None else [*parts, imported.name]
    places = [folder.joinpath(*dotted[:depth]) for depth in range(1, len(dotted) + 1)]
    candidates = [file for place in places for file in (place.with_name(f"{place.name}.py"), place / "__init__.py")]
    return [candidate for candidate in candidates if candidate.is_file()]


def _is_for_others(test: ast.expr) -> bool:
    """`if TYPE_CHECKING` and `if __name__ == "__main__"` guard code that does not run here."""
    written = ast.unparse(test)
    return written == "__name__ == '__main__'" or written.rpartition(".")[2] == "TYPE_CHECKING"


def _names(node: ast.Import | ast.ImportFrom) -> list[ImportedName]:
    if isinstance(node, ast.Import):
        return [ImportedName(alias.name) for alias in node.names]
    if node.module == "__future__":
        return []
    module = "." * node.level + (node.module or "")
    return [ImportedName(module, None if alias.name == "*" else alias.name) for alias in node.names]


def _imports(sequences: Sequence[Sequence[ImportedName]], unfit: Set[str]) -> Iterator[str]:
    """Import what each app imports, by name, up to the first that is unfit for this process or fails."""
    for sequence in sequences:
        for imported in sequence:
            if str(imported) in unfit:
                break  # the app's next import may depend on this one
            yield str(imported)
            if not _import(imported):
                break


def _unfit(sequences: Sequence[Sequence[ImportedName]]) -> set[str]:
    """The imports that only the workers may do, found by trials of all that are not yet known to be unfit."""
    unfit: set[str] = set()
    if all(map(_is_loaded, chain.from_iterable(sequences))):
        return unfit
    while (found := first_unfit(_imports(sequences, unfit))) is not None:
        log.info("%s is imported in each worker: it %s when it is imported", found.step, found.reason)
        unfit.add(found.step)
    return unfit


def _is_loaded(imported: ImportedName) -> bool:
    module = sys.modules.get(imported.module)
    return module is not None and (imported.name is None or hasattr(module, imported.name))


def _import(imported: ImportedName) -> bool:
    """Whether the import succeeded."""
    try:
        module = importlib.import_module(imported.module)
        if imported.name is not None and not hasattr(module, imported.name):
            importlib.import_module(f"{imported.module}.{imported.name}")
    except (Exception, SystemExit) as problem:
        log.debug("could not import %s ahead of the workers: %s", imported.module, problem)
        return False
    return True
