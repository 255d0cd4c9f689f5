"""A node's figures, from the files that its processes write; see `aperture.metrics.storage`.

Any worker of the node can read them, so the dashboard needs no admin port and asks nobody. Reading blocks for as long
as some small files take: call it in a thread.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from aperture.worker.dashboard.figures import Key, NodeFigures, ProcessFigures, parse_key

__all__ = ["read_node"]

_COUNTERS = "counter"
"""The kind of file that every process writes anew each time: its processor time has always changed."""


def read_node(node: str, path: Path | str) -> NodeFigures:
    """What all processes of a node have counted.

    Args:
        node: its name.
        path: of its directory.

    Raises:
        OSError: the directory is gone.
    """
    by_process: dict[str, list[Path]] = {}
    for file in sorted(_data_files(Path(path))):
        by_process.setdefault(file.stem.rpartition("_")[2], []).append(file)
    return NodeFigures(node, tuple(_read_process(name, files) for name, files in sorted(by_process.items())))


def _data_files(path: Path) -> Iterator[Path]:
    return (file for file in path.iterdir() if file.suffix == ".db")


def _read_process(name: str, files: list[Path]) -> ProcessFigures:
    values: dict[Key, float] = {}
    at = 0.0
    for file in files:
        try:
            if file.name.startswith(_COUNTERS):
                at = file.stat().st_mtime  # before the content, which may be newer: rates then come out in the end
            values.update(_read_file(file))
        except (OSError, RuntimeError, ValueError, struct.error):
            continue  # it went, or is damaged, which its writer will say
    return ProcessFigures(name, at, values)


def _read_file(file: Path) -> Iterator[tuple[Key, float]]:
    for text, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        key = parse_key(text)
        if key is not None:
            yield key, value
