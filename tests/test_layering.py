"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"shared": "aperture", "gateway": "aperture.gateway", "worker": "aperture.worker"}

IO_MODULES = frozenset(
    {
        "asyncio",
        "concurrent",
        "http",
        "multiprocessing",
        "os",
        "redis",
        "select",
        "selectors",
        "signal",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "threading",
        "tornado",
        "urllib.request",
        "uvloop",
    }
)
ROOTS = ("aperture.gateway.cli", "aperture.gateway.embed")
"""The composition roots: the command line, and the server inside a program."""

ENTRIES = ("aperture", "aperture.__main__", "aperture.panel")
REPLACED = ("bokeh.server", "bokeh.protocol", "bokeh.client")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its name, with its file."""
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), file


def imports(file: Path) -> set[str]:
    """Every module that the file names in an import, at whatever depth; `from a import b` counts as `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def reads_from(file: Path, package: str) -> bool:
    """Whether the file takes more from a package than modules in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            taken = [alias.name == package for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            taken = [f"{package}.{alias.name}" not in MODULES for alias in node.names]
        else:
            continue
        if any(taken):
            return True
    return False


def within(imported: str, package: str) -> bool:
    return imported == package or imported.startswith(package + ".")


def is_root(name: str) -> bool:
    return any(within(name, root) for root in ROOTS)


MODULES = dict(modules())
named = pytest.mark.parametrize("name", MODULES)


def offenders(name: str, *packages: str) -> set[str]:
    return {found for found in imports(MODULES[name]) if any(within(found, package) for package in packages)}


def test_the_walk_finds_the_package() -> None:
    """The other tests here would hold of nothing at all."""
    assert {"aperture", "aperture.gateway.cli", "aperture.worker", "aperture.protocol.frames"} <= MODULES.keys()


def test_no_imports_go_in_a_circle() -> None:
    """Those inside functions and under TYPE_CHECKING count, too: who reads one module must read the other."""
    graph = {name: {found for found in imports(file) if found in MODULES} - {name} for name, file in MODULES.items()}
    # A package that stands before the name of what is imported from it says nothing; one that is read from does.
    for name, file in MODULES.items():
        graph[name] -= {package for package in graph[name] if not reads_from(file, package)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as problem:
        pytest.fail(" -> ".join(problem.args[1]))


def test_no_two_modules_share_a_name() -> None:
    """A name in a traceback, in a search or in talk means one file."""
    stems = Counter(file.stem for file in MODULES.values() if file.stem not in ("__init__", "__main__"))
    assert [stem for stem, count in stems.items() if count > 1] == []


@named
def test_folders_are_never_imported_by_their_bare_names(name: str) -> None:
    """`import gateway` would load a second copy of the same code."""
    assert not offenders(name, "gateway", "worker", "shared")


@named
def test_close_codes_are_in_one_module(name: str) -> None:
    """With their meaning, for both sides of a websocket; model ids begin at such a number, too."""
    if name not in ("aperture.protocol.closing", "aperture.document.ids"):
        tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
        numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is int}
        assert not numbers & {*range(1001, 1016)}


def test_the_sides_of_the_relay_do_not_know_each_other() -> None:
    """They meet in the cluster only; claims know neither, so that the store of sessions can be built on them."""
    relay = "aperture.worker.relay"
    assert not offenders(f"{relay}.owner_side", f"{relay}.edge_side", f"{relay}.edge", f"{relay}.cluster")
    assert not offenders(f"{relay}.edge_side", f"{relay}.owner_side", f"{relay}.audience", f"{relay}.cluster")
    assert not offenders(f"{relay}.claims", relay)


@named
def test_what_this_project_replaces_is_not_imported(name: str) -> None:
    """Stock Bokeh's server, protocol and client are peers in tests; Panel's command asks for the first by name."""
    if name != "aperture.worker.panel.serve_command":
        assert not offenders(name, *REPLACED)


@named
def test_panel_is_imported_in_one_place(name: str) -> None:
    """It is an extra, and changes Bokeh when it is imported."""
    if not within(name, "aperture.worker.panel"):
        assert not offenders(name, "panel", "param")


def test_nothing_of_panel_is_imported_without_need() -> None:
    """Neither by a worker nor by the command."""
    ask = "import sys, aperture.gateway.cli, aperture.worker.worker; print('panel' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False"]


@named
def test_gateway_and_worker_do_not_know_each_other(name: str) -> None:
    """Only the composition roots put them together."""
    if within(name, "aperture.gateway") and not is_root(name):
        assert not offenders(name, "aperture.worker")
    if within(name, "aperture.worker"):
        assert not offenders(name, "aperture.gateway")


@named
def test_shared_code_knows_neither_gateway_nor_worker(name: str) -> None:
    """What both sides import cannot depend on either; `python -m aperture` is the command itself."""
    if within(name, "aperture.gateway") or within(name, "aperture.worker") or name in ENTRIES:
        return
    assert not offenders(name, "aperture.gateway", "aperture.worker")


@named
def test_nothing_imports_a_composition_root(name: str) -> None:
    """They are at the top; `aperture.Server` and `python -m aperture` are the doors to them."""
    if not is_root(name) and name not in ENTRIES:
        assert not offenders(name, *ROOTS)


def test_the_package_alone_is_light() -> None:
    """`import aperture` loads neither Bokeh nor Tornado, though it offers what needs both."""
    ask = (
        "import sys, aperture; print(*{name.partition('.')[0] for name in sys.modules} & {'bokeh', 'tornado', 'redis'})"
    )
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


@named
def test_protocol_does_no_io(name: str) -> None:
    """Bytes in, events and bytes out: no socket, loop, thread or file is within reach."""
    if within(name, "aperture.protocol"):
        assert not offenders(name, *IO_MODULES)


@named
def test_what_a_client_decides_is_decided_without_io(name: str) -> None:
    """Both of its faces pump the same conversation, which knows neither loops nor sockets nor threads."""
    if name in {f"aperture.client.{part}" for part in ("backlog", "sync_protocol", "mirror", "sequence", "refusals")}:
        assert not offenders(name, *IO_MODULES)


@named
def test_sessions_do_not_know_websockets(name: str) -> None:
    """A session writes to the interface of an outbox, so that an edge can be one as well."""
    if within(name, "aperture.worker.session"):
        assert not offenders(name, "aperture.worker.ws", "aperture.worker.http", "tornado.websocket", "tornado.web")


@named
def test_every_module_says_why_it_exists(name: str) -> None:
    """The first statement of a module is its docstring."""
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))
