"""A node's figures out of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from aperture.metrics import ProcessFiles, Reading, families, forget_gauges
from aperture.worker.dashboard.files import read_node


def write(path: Path, name: str, *readings: Reading) -> None:
    files = ProcessFiles(path, name)
    files.write(readings)
    files.close()


def test_each_process_is_read_for_itself(tmp_path: Path) -> None:
    """What `/metrics` adds up is separate here."""
    for index, count in enumerate((3, 4)):
        restarts = Reading(families.PATCHES, ("/a", "out"), count)
        write(tmp_path, f"worker-{index}", restarts, Reading(families.LOOP_LAG, (str(index),), 0.0))
    write(tmp_path, "supervisor", Reading(families.WORKER_RESTARTS, (), 2))
    node = read_node("n", tmp_path)
    assert [process.name for process in node.processes] == ["supervisor", "worker-0", "worker-1"]
    assert [process.values.get(("aperture_patches_total", ("/a", "out"))) for process in node.processes] == [None, 3, 4]
    assert all(process.alive and process.at > 0 for process in node.processes[1:])


def test_a_dead_worker_keeps_its_counters_and_nothing_else(tmp_path: Path) -> None:
    """As in `/metrics`, no counter goes back when a worker dies."""
    write(tmp_path, "worker-0", Reading(families.PATCHES, ("/a", "in"), 5), Reading(families.LOOP_LAG, ("0",), 0.1))
    forget_gauges(tmp_path, "worker-0")
    (process,) = read_node("n", tmp_path).processes
    assert not process.alive
    assert process.values["aperture_patches_total", ("/a", "in")] == 5


def test_a_damaged_file_costs_its_own_numbers_only(tmp_path: Path) -> None:
    """The dashboard goes on with what can be read."""
    write(tmp_path, "worker-0", Reading(families.LOOP_LAG, ("0",), 0.1))
    (tmp_path / "counter_worker-0.db").write_bytes(b"\xff" * 64)
    (tmp_path / "counter_worker-1.db").write_bytes(b"")
    assert [process.alive for process in read_node("n", tmp_path).processes] == [True, False]


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """The node has ended, and who reads has to know."""
    with pytest.raises(OSError):
        read_node("n", tmp_path / "gone")
