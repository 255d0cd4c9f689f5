"""The figures of a node, on their way to another."""

from __future__ import annotations

import math

import msgpack
import pytest

from aperture.errors import WireError
from aperture.metrics import families
from aperture.wire.envelopes import Envelope, Figures
from aperture.wire.node_figures import Key, NodeFigures, ProcessFigures

SESSIONS: Key = (families.SESSIONS.name, ("/sliders",))
LAG: Key = (families.LOOP_LAG.name, ("0",))


def test_figures_survive_the_way() -> None:
    """Everything that has counted arrives, and that a process lives arrives even if it never lagged."""
    values: dict[Key, float] = {SESSIONS: 3.0, (families.CONNECTIONS.name, ("/sliders",)): 0.0, LAG: 0.0}
    sent = NodeFigures("node-a", (ProcessFigures("worker-0", 12.5, values),))
    received = Envelope.unpack(Figures(1, sent.abridged()).pack())
    assert isinstance(received, Figures)
    assert received.node.node == "node-a"
    (process,) = received.node.processes
    assert (process.name, process.at, process.worker, process.alive) == ("worker-0", 12.5, 0, True)
    assert process.values == {SESSIONS: 3.0, LAG: 0.0}


@pytest.mark.parametrize("name", ["supervisor", "worker-", "worker-x", "worker-99999999", "gateway-0"])
def test_only_workers_are_workers(name: str) -> None:
    """Other processes have no place, and a stranger's name is not made one."""
    assert ProcessFigures(name, 0.0, {}).worker is None


@pytest.mark.parametrize(
    "figures",
    [
        ["node"],
        [7, []],
        ["n" * 301, []],
        ["node", "processes"],
        ["node", [["worker-0", 1.0]]],
        ["node", [["worker-0", math.nan, {}]]],
        ["node", [["worker-0", 1.0, {("name", ("label",)): "many"}]]],
        ["node", [["worker-0", 1.0, {("name", ("label",)): math.inf}]]],
        ["node", [["worker-0", 1.0, {("name", ("label",) * 5): 1.0}]]],
        ["node", [["worker-0", 1.0, {("name", (("label",),)): 1.0}]]],
        ["node", [["worker-0", 1.0, {("name", ("label",)): True}]]],
        ["node", [["worker-0", 1.0, {}]] * 1101],
    ],
)
def test_what_is_not_figures_is_refused(figures: object) -> None:
    """Anybody can write to Redis; nothing of another shape is believed."""
    with pytest.raises(WireError, match=r"Figures\.node: Expected"):
        Envelope.unpack(msgpack.packb([18, 1, figures]))
