"""A node's figures, from the files that its processes write; see `aperture.metrics.storage`.

Any worker of the node can read them, so the dashboard needs neither the admin port nor a message. Reading blocks for a
few small files: call it in a thread.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from aperture.wire.node_figures import Key, NodeFigures, ProcessFigures
from aperture.worker.dashboard.figures import parse_key

__all__ = ["read_node"]

_COUNTERS = "counter"
"""The kind of file that every process rewrites every second, because its processor time has changed."""


def read_node(node: str, path: Path | str) -> NodeFigures:
    """Read the figures of all processes of a node.

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
                # Before the content, which may be newer: one rate is then too high, and the next one makes up for it.
                at = file.stat().st_mtime
            values.update(_read_file(file))
        except (OSError, RuntimeError, ValueError, struct.error):
            continue  # deleted meanwhile, or damaged, which its writer logs
    return ProcessFigures(name, at, values)


def _read_file(file: Path) -> Iterator[tuple[Key, float]]:
    for text, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        key = parse_key(text)
        if key is not None:
            yield key, value
