"""`deploy/compose/upgrade.sh`, with a Docker made of files: what is there after it was interrupted, at every step.

`tests/containers/test_compose_faults.py` runs it with the real one.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from support.compose import ROOT
from support.patience import seconds

SCRIPT = ROOT / "deploy" / "compose" / "upgrade.sh"
DOCKER = r"""#!/bin/sh
# A file in containers/ is a container, and has what that was made of.
cd "$STATE"
echo "$*" >> commands
[ "$(grep -c . commands)" != "${END_AT:-}" ] || kill -s "$END_BY" "$(cat pid)"
case "$*" in
    "compose ps --all --quiet node") ls containers ;;
    "compose build --quiet node") ;;
    "compose up --detach --no-deps --no-recreate --scale node="*)
        wanted=$(echo "$*" | grep -o "node=[0-9]*" | cut -c 6-)
        while [ "$(ls containers | wc -l)" -lt "$wanted" ]; do
            echo . >> made
            echo "$BUILD" > "containers/c$(grep -c . made)"
        done
        [ "$(ls containers | wc -l)" -eq "$wanted" ] || exit 9 ;;
    *State.Health.Status*) echo "$HEALTH" ;;
    "inspect --format "*) shift 3; cd containers && cat "$@" ;;
    "stop "*) ;;
    "rm "*) shift; cd containers && rm "$@" ;;
    *) echo "no such command: $*" >&2; exit 9 ;;
esac
"""


class Engine:
    """A folder that is a Docker engine, with two nodes of an old build."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "containers").mkdir()
        program = folder / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(DOCKER)
        program.chmod(0o755)
        for number in range(2):
            (folder / "containers" / f"a{number}").write_text("old\n")

    def upgrade(self, build: str = "new", health: str = "healthy", **given: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end, or to where it is ended."""
        (self._folder / "commands").write_text("")
        environment = {"PATH": f"{self._folder / 'bin'}:/usr/bin:/bin", "STATE": str(self._folder), "BUILD": build}
        return subprocess.run(
            ["sh", "-c", f'echo $$ > "$STATE/pid"; exec sh {SCRIPT}'],
            env=environment | {"HEALTH": health, "PATIENCE": "2"} | given,
            capture_output=True,
            text=True,
            timeout=seconds(60),
            check=False,
        )

    def nodes(self) -> list[str]:
        """What each node was made of."""
        return sorted(file.read_text().strip() for file in (self._folder / "containers").iterdir())

    def commands(self) -> list[str]:
        return (self._folder / "commands").read_text().splitlines()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def test_new_nodes_take_the_places_of_the_old_ones(engine: Engine) -> None:
    """As many, and none ends before the new ones are healthy."""
    done = engine.upgrade()
    assert done.returncode == 0, done.stderr
    assert engine.nodes() == ["new", "new"]
    looked = [number for number, command in enumerate(engine.commands()) if "State.Health" in command]
    (stopped,) = [number for number, command in enumerate(engine.commands()) if command.startswith("stop")]
    assert len(looked) == 2
    assert max(looked) < stopped


def test_one_variable_changes_their_number(engine: Engine) -> None:
    """Up and down."""
    for number in (3, 1):
        assert engine.upgrade(build=f"of {number}", NODES=str(number)).returncode == 0
        assert engine.nodes() == [f"of {number}"] * number


def test_killed_at_any_step_it_finishes_when_run_again(tmp_path: Path) -> None:
    """There are neither more nodes than before nor old ones among them."""
    (tmp_path / "whole").mkdir()
    whole = Engine(tmp_path / "whole")
    whole.upgrade()
    for step in range(1, len(whole.commands()) + 1):
        (tmp_path / str(step)).mkdir()
        engine = Engine(tmp_path / str(step))
        ended = engine.upgrade(END_AT=str(step), END_BY="KILL")
        assert ended.returncode == -signal.SIGKILL
        assert engine.nodes(), "no node is left"
        again = engine.upgrade()
        assert again.returncode == 0, again.stderr
        assert engine.nodes() == ["new", "new"], engine.commands()


@pytest.mark.parametrize("signalled", ["INT", "TERM", "HUP"])
def test_an_interrupt_before_the_new_nodes_serve_leaves_the_old_ones(engine: Engine, signalled: str) -> None:
    """And none of the new ones, which nginx would find."""
    for step in ("compose up", "inspect --format {{.State.Health"):
        engine.upgrade(health="starting")
        at = next(number for number, command in enumerate(engine.commands(), 1) if command.startswith(step))
        ended = engine.upgrade(health="starting", END_AT=str(at), END_BY=signalled)
        assert ended.returncode != 0
        assert engine.nodes() == ["old", "old"]
        assert "the old ones go on" in ended.stderr


def test_a_build_that_does_not_become_healthy_is_removed(engine: Engine) -> None:
    """Instead of staying where nginx finds it."""
    done = engine.upgrade(health="unhealthy")
    assert done.returncode == 1
    assert "the old ones go on" in done.stderr
    assert engine.nodes() == ["old", "old"]


def test_without_a_node_it_says_so(engine: Engine, tmp_path: Path) -> None:
    """Rather than nothing at all."""
    for node in (tmp_path / "containers").iterdir():
        node.unlink()
    done = engine.upgrade()
    assert done.returncode == 1
    assert "docker compose up" in done.stderr
