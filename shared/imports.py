"""What the files of an app import, read without running them: by which it is known what the app is written with."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ["parsed", "written_with_panel"]

_PANELS = ("panel", "lumen")
"""Packages whose apps are Panel's; so are those whose names begin with `panel_`, such as panel_material_ui."""

_MOST_FILES = 500
"""A bound on the walk through an app's own modules."""


def written_with_panel(file: str) -> bool:
    """Whether an app imports Panel anywhere in its own files, or is of a kind that only Panel serves.

    Args:
        file: a script, a notebook, a Markdown file, or a folder.
    """
    path = Path(file).expanduser().absolute()
    if path.suffix == ".md":
        return True
    files = list(path.rglob("*.py")) + list(path.glob("main.ipynb")) if path.is_dir() else [path]
    return any(_is_panels(name) for name in _imported(files, path if path.is_dir() else path.parent))


def _is_panels(module: str) -> bool:
    package = module.partition(".")[0]
    return package in _PANELS or package.startswith("panel_")


def _imported(files: list[Path], folder: Path) -> Iterator[str]:
    """The modules that the files import, and those that these import where they are the app's own."""
    seen = set(files)
    for _ in range(_MOST_FILES):
        if not files:
            return
        for module in _imports(files.pop()):
            yield module
            own = {candidate for candidate in _candidates(folder, module) if candidate.is_file()} - seen
            seen |= own
            files.extend(own)


def _candidates(folder: Path, module: str) -> Iterator[Path]:
    parts = [part for part in module.split(".") if part]
    for depth in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:depth])
        yield place.with_name(f"{place.name}.py")
        yield place / "__init__.py"


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(parsed(file) or ast.Module(body=[], type_ignores=[])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative one begins with a dot, and is looked for in the app's folder as the others are.
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parsed(file: Path) -> ast.Module | None:
    """The code of a script or of a notebook; None if it cannot be read, which is for those to report who run it."""
    try:
        return ast.parse(_source(file), str(file))
    except (OSError, SyntaxError, ValueError, AttributeError, KeyError, TypeError):  # the last three: no notebook
        return None


def _source(file: Path) -> str | bytes:
    if file.suffix != ".ipynb":
        return file.read_bytes()
    cells = json.loads(file.read_bytes()).get("cells", [])
    lines = [line for cell in cells if cell.get("cell_type") == "code" for line in "".join(cell["source"]).split("\n")]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
