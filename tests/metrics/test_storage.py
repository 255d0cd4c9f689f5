"""Where a node's processes leave their numbers: kept over restarts, damage, a full disk, and cleaners of /tmp."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.exposition import samples

from aperture.metrics import (
    MetricsDirectory,
    NodeCollector,
    ProcessFiles,
    Reading,
    Tallies,
    families,
    forget_gauges,
    render,
)


def shown(path: Path) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return samples(render(NodeCollector(path))[0].decode())


def count(path: Path, process: str, patches: int, sessions: int = 0) -> ProcessFiles:
    """A process that has counted so much since it began."""
    files = ProcessFiles(path, process)
    files.write(
        [
            Reading(families.PATCHES, ("/a", "in"), patches),
            Reading(families.SESSIONS, ("/a",), sessions),
        ]
    )
    return files


PATCHES = ("aperture_patches_total", (("app", "/a"), ("direction", "in")))
SESSIONS = ("aperture_sessions", (("app", "/a"),))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where metrics go instead of the system's folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_processes_are_added_up(tmp_path: Path) -> None:
    """The node's number is that of all its workers."""
    count(tmp_path, "worker-0", 3, 1)
    count(tmp_path, "worker-1", 4, 2)
    assert shown(tmp_path)[PATCHES] == 7
    assert shown(tmp_path)[SESSIONS] == 3


def test_a_successor_goes_on_from_the_counters(tmp_path: Path) -> None:
    """No counter goes back when a worker is replaced, however often."""
    for restarts in range(1, 6):
        count(tmp_path, "worker-0", 10).close()
        assert shown(tmp_path)[PATCHES] == 10 * restarts


def test_restarts_leave_no_more_files(tmp_path: Path) -> None:
    """A node whose workers are replaced every day has the files of one day."""
    count(tmp_path, "worker-0", 1)
    before = {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()}
    for _ in range(50):
        count(tmp_path, "worker-0", 1)
    assert {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()} == before


def test_a_dead_workers_gauges_go(tmp_path: Path) -> None:
    """Its sessions are not there any more; what it has counted has happened."""
    count(tmp_path, "worker-1", 5, 2)
    count(tmp_path, "worker-11", 6, 3)
    forget_gauges(tmp_path, "worker-1")
    assert shown(tmp_path)[SESSIONS] == 3
    assert shown(tmp_path)[PATCHES] == 11


def test_histograms_go_on_too(tmp_path: Path) -> None:
    """Buckets, sum and count of a successor are on top of its predecessor's."""
    for _ in range(2):
        tallies = Tallies(["/a"])
        tallies.encode.observe(0.0001)
        tallies.encode.observe(99)
        ProcessFiles(tmp_path, "worker-0").write(tallies.read())
    seen = shown(tmp_path)
    assert seen["aperture_patch_encode_seconds_count", ()] == 4
    assert seen["aperture_patch_encode_seconds_bucket", (("le", "0.0001"),)] == 2
    assert seen["aperture_patch_encode_seconds_bucket", (("le", "+Inf"),)] == 4
    assert seen["aperture_patch_encode_seconds_sum", ()] == pytest.approx(198.0002)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 3, b"\xff" * 4096, os.urandom(500)])
def test_a_damaged_file_costs_its_counters_and_no_more(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker must not fail to start because of a number."""
    (tmp_path / "counter_worker-0.db").write_bytes(damage)
    count(tmp_path, "worker-0", 2)
    assert shown(tmp_path)[PATCHES] == 2


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped memory would kill the process with a signal instead."""
    files = count(tmp_path, "worker-0", 2)

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="space"):
            files.write([Reading(families.PATCHES, ("/a", "in"), 3)])
    assert shown(tmp_path)[PATCHES] == 2
    files.write([Reading(families.PATCHES, ("/a", "in"), 4)])
    assert shown(tmp_path)[PATCHES] == 4


def test_a_file_is_not_there_before_its_content_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape in the moment of a worker's start gets an answer."""
    write = os.pwrite

    def scraped(descriptor: int, content: memoryview, offset: int) -> int:
        shown(tmp_path)
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", scraped)
    for _ in range(2):
        count(tmp_path, "worker-0", 1, 1)
    assert shown(tmp_path)[PATCHES] == 2


def test_the_next_node_removes_what_a_killed_one_left(folder: Path) -> None:
    """Its lock ended with it, and its process id may be anybody's by now."""
    dead = MetricsDirectory()
    os.close(dead._lock)  # as the kernel does at a process's end
    dead._lock = -1
    living = MetricsDirectory()
    another = MetricsDirectory()
    assert not dead.path.exists()
    assert living.path.exists()
    another.remove()
    living.remove()
    assert list(folder.iterdir()) == []


def test_a_folder_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    """Cleaners of temporary files take it; the next write has all numbers, those of before among them."""
    folder = tmp_path / "numbers"
    count(folder, "worker-0", 2).close()
    files = count(folder, "worker-0", 3, sessions=1)
    shutil.rmtree(folder)
    files.write([Reading(families.PATCHES, ("/a", "in"), 4)])
    assert shown(folder)[PATCHES] == 6
    assert folder.stat().st_mode & 0o077 == 0, "only this user may read it"


def test_a_file_that_was_taken_away_is_made_again_though_nothing_has_changed(tmp_path: Path) -> None:
    """Else a quiet worker would be missing from every sum."""
    readings = [Reading(families.PATCHES, ("/a", "in"), 3)]
    files = ProcessFiles(tmp_path, "worker-0")
    files.write(readings)
    for file in tmp_path.iterdir():
        file.unlink()
    files.write(readings)
    assert shown(tmp_path)[PATCHES] == 3


def test_what_has_not_changed_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second, for every process of the node."""
    files = count(tmp_path, "worker-0", 3)
    written: list[int] = []
    write = os.pwrite

    def counted(descriptor: int, content: memoryview, offset: int) -> int:
        written.append(offset)
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    files.write([Reading(families.PATCHES, ("/a", "in"), 3)])
    assert written == []
    files.write([Reading(families.PATCHES, ("/a", "in"), 4)])
    assert written[-1] == 0, "the length comes last, behind whole entries"


def test_a_child_whose_supervisor_has_ended_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor removes the folder at its end: what is made again then would stay for ever."""
    files = count(tmp_path, "worker-0", 3)
    alone = ProcessFiles(tmp_path, "program", of_node=False)
    another = os.getppid() + 1
    monkeypatch.setattr(os, "getppid", lambda: another)
    files.write([Reading(families.PATCHES, ("/a", "in"), 4)])
    assert shown(tmp_path)[PATCHES] == 3
    alone.write([Reading(families.PATCHES, ("/a", "in"), 5)])
    assert shown(tmp_path)[PATCHES] == 8


def test_nor_does_one_whose_supervisor_ends_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes again, because the folder is gone with the supervisor, it takes away itself."""
    path = tmp_path / "metrics"
    files = count(path, "worker-0", 3)
    another = os.getppid() + 1

    def readings() -> Iterator[Reading]:
        yield Reading(families.PATCHES, ("/a", "in"), 4)
        monkeypatch.setattr(os, "getppid", lambda: another)
        shutil.rmtree(path)

    files.write(readings())
    assert not path.exists()


def test_values_written_in_pieces_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take fewer bytes than it was given."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, offset: write(descriptor, content[:7], offset))
    count(tmp_path, "worker-0", 3, sessions=2)
    assert (shown(tmp_path)[PATCHES], shown(tmp_path)[SESSIONS]) == (3, 2)


def test_what_is_no_nodes_folder_is_left_alone(folder: Path) -> None:
    """Another user's, one that is just being made, and a link to somewhere else: there is no lock to take."""
    (folder / "aperture-metrics-made").mkdir()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner.lock").touch()
    linked = folder / "aperture-metrics-linked"
    linked.mkdir()
    (linked / "owner.lock").symlink_to(elsewhere / "owner.lock")
    MetricsDirectory().remove()
    assert {entry.name for entry in folder.iterdir()} == {
        "aperture-metrics-made",
        "aperture-metrics-linked",
        "elsewhere",
    }


def test_a_directory_is_removed_once() -> None:
    """And is gone afterwards, with its lock."""
    directory = MetricsDirectory()
    for _ in range(2):
        directory.remove()
    assert not directory.path.exists()


def test_a_file_that_is_made_while_the_directory_is_removed_goes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that has not noticed yet: without its lock, nobody would come for the rest."""
    directory = MetricsDirectory()
    rmdir, late = os.rmdir, iter(["counter_worker-0.new", "counter_worker-1.new"])

    def overtaken(path: str, **options: int) -> None:
        for name in late:
            (directory.path / name).touch()
            break
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", overtaken)
    directory.remove()
    assert not directory.path.exists()
