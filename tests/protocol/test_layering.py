"""The protocol imports nothing that does I/O."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aperture.protocol

IO_MODULES = "asyncio concurrent http multiprocessing redis select selectors signal socket socketserver ssl subprocess"
MORE_IO_MODULES = "threading tornado uvloop urllib.request"
FORBIDDEN = {*IO_MODULES.split(), *MORE_IO_MODULES.split()}
BOKEH_MODULES = {"attributes", "codec", "decode", "encode", "values", "weights"}
NOT_BUILT_ON = ("bokeh.server", "bokeh.protocol", "bokeh.client")

MODULES = sorted(Path(aperture.protocol.__path__[0]).glob("*.py"))


def imported(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_no_module_imports_io(module: Path) -> None:
    """No loop, socket or server can be reached from here; Bokeh only from the codec, and never its server."""
    names = imported(module)
    assert not FORBIDDEN & {part for name in names for part in (name, name.partition(".")[0])}
    assert not [name for name in names if name.startswith(NOT_BUILT_ON)]
    if module.stem not in BOKEH_MODULES:
        assert not [name for name in names if name.partition(".")[0] == "bokeh"]
