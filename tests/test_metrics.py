"""Metrics without processes: what is counted, how it is kept over restarts, how it is shown, what is written of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from aperture.metrics import (
    FAMILIES,
    MetricsDirectory,
    NodeCollector,
    ProcessFiles,
    Reading,
    SourceCollector,
    Tallies,
    families,
    forget_gauges,
    render,
)

ROOT = Path(__file__).parents[1]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


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
    """Whoever scrapes in the moment of a worker's start gets an answer."""
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


def test_one_process_is_shown_like_a_node(tmp_path: Path) -> None:
    """A server inside a program has the same metrics as a node with the same counts."""
    tallies = Tallies(["/a"])
    tallies.apps["/a"].callback.observe(0.02)
    tallies.apps["/a"].patches_in = 3
    ProcessFiles(tmp_path, "worker-0").write(tallies.read())
    assert samples(render(SourceCollector(tallies.read))[0].decode()) == shown(tmp_path)


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", OPENMETRICS, "\x00;;,,=", "q" * 10_000])
def test_every_accept_header_is_answered(accept: str) -> None:
    """With OpenMetrics if it says so, with Prometheus's own format if it says anything else."""
    body, content_type = render(SourceCollector(Tallies(["/a"]).read), accept)
    assert ("openmetrics" in content_type) == (accept == OPENMETRICS)
    families_shown = list((parse_openmetrics if accept == OPENMETRICS else parse)(body.decode()))
    assert "aperture_patches" in {family.name.removesuffix("_total") for family in families_shown}


def test_the_programs_own_registry_is_left_alone() -> None:
    """An app, or the program around a server, may use prometheus_client as it likes."""
    render(SourceCollector(Tallies(["/a"]).read))
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("aperture")]
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_strangers_make_no_new_time_series() -> None:
    """Paths and statuses that nobody serves are counted together."""
    tallies = Tallies(["/a"])
    before = len(list(tallies.read()))
    for number in range(1000):
        tallies.answered(f"/{number}", number, 0.1)
    assert len(list(tallies.read())) == before


def test_every_metric_is_documented() -> None:
    """`docs/metrics.md` has a row for each, with its labels, and none for what is not there."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| `(aperture_\w+)` \| ([^|]*) \|", text))
    assert rows == {name: ", ".join(f"`{label}`" for label in family.labels) for name, family in FAMILIES.items()}


def test_rules_use_metrics_that_exist() -> None:
    """An alert about a metric that was renamed never fires."""
    text = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"(?<![\w:])aperture_\w+", text)}
    assert named
    assert named <= FAMILIES.keys()
