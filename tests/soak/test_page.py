"""The page tells of the published runs, and of nothing else."""

from __future__ import annotations

from soak.faults import FAULTS
from soak.page import PAGE, published, table
from soak.run import TWO


def test_the_page_has_the_figures_of_the_published_runs() -> None:
    """`python -m soak.page` writes them there."""
    assert table(published()) in PAGE.read_text()


def test_published_runs_are_of_faults_that_there_are() -> None:
    """A kind that was renamed is renamed there, too."""
    for run in published():
        assert run["faults"].keys() <= {*FAULTS, TWO}
