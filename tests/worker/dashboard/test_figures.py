"""Figures as values, and on their way between nodes."""

from __future__ import annotations

import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture.metrics import Distribution, Reading, families
from aperture.worker.dashboard.figures import NodeFigures, ProcessFigures, pack, parse_key, unpack, values_of


def readings() -> list[Reading]:
    callback = Distribution(families.CALLBACK.buckets)
    callback.observe(0.02)
    return [
        Reading(families.SESSIONS, ("/sliders",), 3),
        Reading(families.CALLBACK, ("/sliders",), callback),
        Reading(families.LOOP_LAG, ("0",), 0.0),
        Reading(families.OPEN_FDS, ("worker-0",), 12),
    ]


def test_readings_become_the_samples_of_the_exposition() -> None:
    """Names and labels are those of `/metrics`; what is not shown is left out."""
    values = values_of(readings())
    assert values["aperture_sessions", ("/sliders",)] == 3
    assert values["aperture_callback_seconds_bucket", ("/sliders", "0.025")] == 1
    assert values["aperture_callback_seconds_bucket", ("/sliders", "+Inf")] == 0
    assert not any(name.startswith("aperture_process_open") for name, _ in values)


def test_figures_survive_the_way() -> None:
    """Everything that has counted arrives, and that a process lives arrives even if it never lagged."""
    sent = NodeFigures("node-a", (ProcessFigures("worker-0", 12.5, values_of(readings())),))
    received = unpack(pack(sent))
    assert received.node == "node-a"
    (process,) = received.processes
    assert (process.name, process.at, process.worker, process.alive) == ("worker-0", 12.5, 0, True)
    assert process.values == {key: value for key, value in sent.processes[0].values.items() if value or "lag" in key[0]}


@pytest.mark.parametrize("name", ["supervisor", "worker-", "worker-x", "worker-99999999", "gateway-0"])
def test_only_workers_are_workers(name: str) -> None:
    """Other processes have no place, and a stranger's name is not made one."""
    assert ProcessFigures(name, 0.0, {}).worker is None


@pytest.mark.parametrize(
    "payload",
    [
        ["node"],
        [7, []],
        ["n" * 301, []],
        ["node", "processes"],
        ["node", [["worker-0", 1.0]]],
        ["node", [["worker-0", math.nan, []]]],
        ["node", [["worker-0", 1.0, [["name", ["label"], "many"]]]]],
        ["node", [["worker-0", 1.0, [["name", ["label"], math.inf]]]]],
        ["node", [["worker-0", 1.0, [["name", ["label"] * 5, 1]]]]],
        ["node", [["worker-0", 1.0, [["name", [["label"]], 1]]]]],
        ["node", [["worker-0", 1.0, [["name", ["label"], True]]]]],
    ],
)
def test_what_is_not_figures_is_refused(payload: object) -> None:
    """Anybody can write to Redis; nothing of another shape is believed."""
    with pytest.raises(ValueError):
        unpack(msgpack.packb(payload))


@given(st.binary(max_size=200))
def test_any_bytes_are_figures_or_a_value_error(payload: bytes) -> None:
    """No other exception can be provoked."""
    try:
        unpack(payload)
    except ValueError:
        pass


def test_keys_that_are_none_are_passed_over() -> None:
    """A damaged file has whatever it has."""
    assert parse_key("{") is None
    assert parse_key('["aperture_sessions", "aperture_sessions", {}, ""]') is None
    assert parse_key('["other", "other", {}, ""]') is None
