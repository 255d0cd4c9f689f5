"""The page on Panel against Panel's own parser and against the features that the browser tests try.

Panel is asked in a process of its own: its import changes Bokeh for every test of this process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "panel.md").read_text(encoding="utf-8")

ASK = """
import argparse, json
from aperture.worker.panel.serve_command import panel_parser
from panel.command.serve import Serve
theirs = argparse.ArgumentParser()
Serve(parser=theirs)
flags = lambda parser: [action.option_strings[-1] for action in parser._actions if action.option_strings]
print(json.dumps([flags(theirs), flags(panel_parser(argparse.ArgumentParser()))]))
"""


@pytest.fixture(scope="module")
def flags() -> tuple[list[str], list[str]]:
    """Of `panel serve`, and of `aperture panel`."""
    answer = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    theirs, ours = json.loads(answer.stdout.splitlines()[-1])
    return theirs, ours


def documented() -> list[str]:
    options = PAGE.partition("## Options")[2]
    return re.findall(r"`(--[a-z-]+)`", "\n".join(line.split("|")[1] for line in options.splitlines() if "|" in line))


def test_every_option_of_panel_serve_has_a_row(flags: tuple[list[str], list[str]]) -> None:
    """And the table has no others."""
    theirs, _ = flags
    assert sorted(documented()) == sorted(set(theirs) - {"--help"})


def test_the_command_takes_them_all_and_ours(flags: tuple[list[str], list[str]]) -> None:
    """Where both have one, it is Panel's."""
    theirs, ours = flags
    assert set(theirs) <= set(ours)
    assert {"--redis-url", "--durability", "--admin-port"} <= set(ours)
    assert len(ours) == len(set(ours))
