"""Import before the fork what the workers would each import after it, so that they start fast and share the memory.

Runs in the supervisor. Only modules that live outside the apps' own folders are imported: an app's own modules belong
to the worker, which may have to reload them and must report their failures as the app's. What fails here is left for
the worker to fail at, with a traceback that names the app.
"""

from __future__ import annotations

import ast
import importlib
import json
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ImportedName", "foreign_imports", "preload"]

log = logging.getLogger(__name__)

ALWAYS = ("bokeh.models", "bokeh.plotting", "bokeh.layouts", "bokeh.embed", "bokeh.application", "numpy")
IF_INSTALLED = ("pandas",)
"""Bokeh looks for it whenever a column is set, so nearly every app has it in memory in the end."""

_ENTRY_POINTS = (
    "main.py",
    "main.ipynb",
    "app_hooks.py",
    "server_lifecycle.py",
    "request_handler.py",
    "__init__.py",
)
"""What Bokeh runs of a folder; everything else in it matters only if one of these imports it."""

_MOST_FILES = 500
"""A bound on the walk through an app's own modules; beyond it, sharing a little less memory does no harm."""


@dataclass(frozen=True, slots=True)
class ImportedName:
    """`import module`, or `from module import name`."""

    module: str
    name: str | None = None


def preload(apps: Sequence[str]) -> None:
    """Import Bokeh, numpy, and what the apps import from outside their own folders.

    Args:
        apps: scripts, notebooks and folders.
    """
    threads = threading.active_count()
    for module in (*ALWAYS, *(name for name in IF_INSTALLED if find_spec(name) is not None)):
        _import(ImportedName(module))
    for imported in foreign_imports(apps):
        _import(imported)
    grown = threading.active_count() - threads
    if grown > 0:
        log.warning(
            "importing what the apps import started %d thread(s), which do not survive the fork; "
            "import that module inside a function of the app instead",
            grown,
        )


def foreign_imports(apps: Sequence[str]) -> list[ImportedName]:
    """What the apps and their own modules import at their top level from elsewhere, in order and once each."""
    found: dict[ImportedName, None] = {}
    for app in apps:
        path = Path(app).expanduser().absolute()
        entries = [path / name for name in _ENTRY_POINTS] if path.is_dir() else [path]
        folder = path if path.is_dir() else path.parent
        found.update(dict.fromkeys(_walk(folder, [entry for entry in entries if entry.is_file()])))
    return list(found)


def _walk(folder: Path, entries: list[Path]) -> Iterator[ImportedName]:
    waiting, seen = list(entries), set(entries)
    while waiting and len(seen) < _MOST_FILES:
        for imported in _top_level_imports(waiting.pop(0)):
            own = _own_files(folder, imported)
            if own is None:
                yield imported
                continue
            new = [file for file in own if file not in seen]
            seen.update(new)
            waiting.extend(new)


def _own_files(folder: Path, imported: ImportedName) -> list[Path] | None:
    """The files in the app's folder that this imports, or None if it is not the app's own."""
    parts = [part for part in imported.module.split(".") if part]
    # In an app's folder a relative import can only mean a module of that folder.
    relative = imported.module.startswith(".")
    if not relative and not (folder / parts[0]).is_dir() and not (folder / f"{parts[0]}.py").is_file():
        return None
    dotted = parts if imported.name is None else [*parts, imported.name]
    places = [folder.joinpath(*dotted[:depth]) for depth in range(1, len(dotted) + 1)]
    candidates = [file for place in places for file in (place.with_name(f"{place.name}.py"), place / "__init__.py")]
    return [candidate for candidate in candidates if candidate.is_file()]


def _top_level_imports(file: Path) -> list[ImportedName]:
    try:
        tree = ast.parse(_source(file), str(file))
    except (OSError, ValueError, SyntaxError):
        return []  # the worker says so, with the app's name
    return [imported for node in _executed(tree.body) for imported in _names(node)]


def _source(file: Path) -> str | bytes:
    if file.suffix != ".ipynb":
        return file.read_bytes()
    cells = json.loads(file.read_bytes()).get("cells", [])
    lines = [line for cell in cells if cell.get("cell_type") == "code" for line in "".join(cell["source"]).split("\n")]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def _executed(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module does, those inside of blocks included."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and not _is_for_others(node.test):
            yield from _executed([*node.body, *node.orelse])
        elif isinstance(node, ast.Try | ast.TryStar):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _executed([*node.body, *handlers, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.With):
            yield from _executed(node.body)


def _is_for_others(test: ast.expr) -> bool:
    """`if TYPE_CHECKING` and `if __name__ == …` guard what does not run here."""
    words = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(test)}
    return bool(words & {"TYPE_CHECKING", "__name__"})


def _names(node: ast.stmt) -> list[ImportedName]:
    if isinstance(node, ast.Import):
        return [ImportedName(alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        prefix = "." * node.level
        return [ImportedName(prefix + (node.module or ""), alias.name) for alias in node.names if alias.name != "*"]
    return []


def _import(imported: ImportedName) -> None:
    try:
        module = importlib.import_module(imported.module)
        if imported.name is not None and not hasattr(module, imported.name):
            importlib.import_module(f"{imported.module}.{imported.name}")
    except (Exception, SystemExit) as problem:
        log.debug("could not import %s ahead of the workers: %s", imported.module, problem)
