"""Every program on the page about the client does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.documented import Documented, programs_in
from support.node import EXAMPLES, Node
from support.patience import seconds

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
WRITTEN = {"without-an-event-loop-0": "2.5 2\n", "on-an-event-loop-0": "now From outside\n2.5 True\n"}


@pytest.mark.parametrize("program", list(programs_in(PAGE)), ids=lambda program: program.name)
def test_the_pages_programs_write_what_they_should(program: Documented, tmp_path: Path) -> None:
    """Against the sliders, at an address of the test's."""
    with Node(EXAMPLES / "apps" / "sliders.py") as node:
        here = Documented(
            program.heading, program.number, program.source.replace("localhost:5006", f"localhost:{node.port}")
        )
        with here.running(tmp_path) as running:
            code = running.process.wait(seconds(40))
            assert (code, running.text()) == (0, WRITTEN[program.name])
