"""How the product's code is built, in figures: `make structure`; `python bench/structure.py DIR` for another checkout.

    files, lines            of shared/, gateway/ and worker/, docstrings and comments counted in, tests and docs not
    largest class           by methods, and by the attributes that are assigned to `self`; records (dataclasses) apart
    functions over 40       lines of body, without the docstring
    complexity              McCabe's, by ruff's C901
    circles                 strongly connected modules, with imports inside functions and under TYPE_CHECKING counted
    namesakes               modules that share a file name; `__init__` apart
    comments                a thousand lines, docstrings not counted in; the hard parts are relay, holds, hand-over,
                            fencing and recovery
    a patch                 modules that the change of one slider, with a callback, crosses between the fragments of its
                            websocket message and the frames for its viewers; and how often a call enters a module that
                            was left before

The last one is a trace of a real change, the others are read from the source.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parents[1]
PRODUCT = {"shared": "aperture", "gateway": "aperture.gateway", "worker": "aperture.worker"}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
HARD = (
    "worker/relay/",
    "worker/recovery/",
    *(f"worker/patch/{name}.py" for name in ("hold", "fanout", "batch", "corrections", "lock")),
    "worker/handover.py",
    "worker/adopt.py",
    *(f"gateway/front/{name}.py" for name in ("dispatch", "worker_pairs", "listener")),
    *(f"shared/registry/{name}.py" for name in ("registry", "scripts", "lease")),
    *(f"worker/session/{name}.py" for name in ("store", "host")),
)
"""Relay, holds, hand-over, fencing and recovery: where most lines need a reason beside them."""

LONG = 40
"""Lines of a function's body above which a reader has to scroll."""

MANNERED = ("nobody", "whoever", "somebody", "told", "heed", "harmless twice", "as good as", "is away", "as he likes")
"""Words that the glossary in docs/architecture.md has plainer ones for."""


@dataclass(slots=True)
class Module:
    """One file of the product."""

    name: str
    path: Path
    text: str
    tree: ast.Module = field(repr=False)

    @property
    def lines(self) -> int:
        return self.text.count("\n")


def modules(root: Path) -> Iterator[Module]:
    """Every module of the product below a checkout."""
    for folder, package in PRODUCT.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [part for part in path.relative_to(root / folder).with_suffix("").parts if part != "__init__"]
            text = path.read_text(encoding="utf-8")
            yield Module(".".join([package, *parts]), path, text, ast.parse(text))


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement behind the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def attributes(cls: ast.ClassDef) -> set[str]:
    """What a class assigns to `self`."""
    found: set[str] = set()
    for node in ast.walk(cls):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) else []:
            for part in ast.walk(target) if target is not None else []:
                if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
                    found.add(part.attr)
    return found


def imported(module: Module, known: set[str]) -> set[str]:
    """The product's modules that this one imports, at whatever depth."""
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            if any(f"{node.module}.{alias.name}" not in known for alias in node.names):
                found.add(node.module)
    return (found & known) - {module.name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component: list[str] = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return found


def complexities(root: Path) -> list[tuple[int, str]]:
    """Each function's cyclomatic complexity and place, highest first."""
    command = [
        sys.executable, "-m", "ruff", "check", "--isolated", "--select", "C901", "--exit-zero", "--no-cache",
        "--output-format", "json", "--config", "lint.mccabe.max-complexity=1", *PRODUCT,
    ]  # fmt: skip
    found = json.loads(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)
    rows = []
    for item in found:
        number = re.search(r"\((\d+) > 1\)", item["message"])
        assert number, item["message"]
        place = Path(item["filename"]).relative_to(root)
        rows.append((int(number[1]), f"{place}:{item['location']['row']}"))
    return sorted(rows, reverse=True)


def comment_lines(module: Module) -> int:
    """Comments behind code counted in, and those of Lua scripts."""
    with module.path.open("rb") as file:
        here = sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(file.readline))
    return here + len(re.findall(r"^\s*-- ", module.text, re.MULTILINE))


def comment_density(files: list[Module]) -> int:
    """Comments in 1,000 lines."""
    return round(1000 * sum(map(comment_lines, files)) / max(1, sum(module.lines for module in files)))


def words(root: Path, *names: str) -> Counter[str]:
    """How often the mannered ones stand in these files and folders of a checkout."""
    paths = [path for name in names for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])]
    files = [path for path in paths if path.suffix in {".py", ".md"}]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files).lower()
    text = re.sub(r"\s+#?\s*", " ", text)
    return Counter({word: len(re.findall(rf"\b{word}", text)) for word in MANNERED})


def patch_walk() -> tuple[list[str], int]:
    """The modules of this checkout that one slider change enters, in order, and how often a call comes back to one."""
    sys.path.insert(0, str(HERE / "bench"))
    from rows import served  # the benchmark's websocket without a wire: what its row `apply-slider` measures

    entered: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("aperture.") and entered[-1:] != [name]:
            entered.append(name)

    async def trace() -> None:
        take = served.slider_with_a_callback()
        take()  # what is done once
        sys.setprofile(note)
        try:
            take()
        finally:
            sys.setprofile(None)

    asyncio.run(trace())
    crossed = list(dict.fromkeys(entered))
    return crossed, len(entered) - len(crossed)


def figures(root: Path) -> dict[str, object]:
    """The table, by the words of the first column."""
    files = [module for module in modules(root) if module.text.strip()]
    rooms = [module for module in files if module.path.name != "__init__.py"]
    functions = [
        (body_length(node), f"{module.path.relative_to(root)}:{node.lineno} {node.name}")
        for module in files
        for node in ast.walk(module.tree)
        if isinstance(node, FUNCTION)
    ]
    classes = [node for module in files for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    methods = max((sum(isinstance(part, FUNCTION) for part in cls.body), cls.name) for cls in classes)
    most = max((len(attributes(cls)), cls.name) for cls in classes)
    known = {module.name for module in files}
    rings = circles({module.name: imported(module, known) for module in files})
    names = defaultdict(list)
    for module in rooms:
        names[module.path.stem].append(module.name)
    lines = sum(module.lines for module in files)
    hard = [module for module in files if module.path.relative_to(root).as_posix().startswith(HARD)]
    said = words(root, *PRODUCT, "docs", "README.md")
    return {
        "files": len(files),
        "lines": lines,
        "files under 60 lines": sum(module.lines < 60 for module in rooms),
        "files over 500 lines": sum(module.lines > 500 for module in rooms),
        "functions": len(functions),
        f"functions over {LONG} lines": [place for length, place in sorted(functions, reverse=True) if length > LONG],
        "largest class, methods": f"{methods[0]} ({methods[1]})",
        "largest class, attributes": f"{most[0]} ({most[1]})",
        "highest complexity": ", ".join(f"{number} {place}" for number, place in complexities(root)[:3]),
        "import circles": [" ".join(ring) for ring in rings],
        "modules of one name": [f"{name}: {' '.join(same)}" for name, same in names.items() if len(same) > 1],
        "comments per 1,000 lines": comment_density(files),
        "comments per 1,000 lines of the hard parts": comment_density(hard),
        "mannered words": f"{said.total()} ({', '.join(f'{w} {n}' for w, n in said.items())})",
        "mannered words in tests": words(root, "tests").total(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root", nargs="?", type=Path, default=HERE, help="a checkout; this one if none is named")
    parser.add_argument("--walk", action="store_true", help="trace a patch, too; only through what is installed")
    arguments = parser.parse_args()
    table = figures(arguments.root.resolve())
    if arguments.walk:
        crossed, returns = patch_walk()
        table |= {"modules a patch crosses": crossed, "and comes back to one": returns}
    for name, value in table.items():
        shown = f"{len(value)}" + "".join(f"\n    {item}" for item in value) if isinstance(value, list) else value
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
