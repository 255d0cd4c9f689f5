"""`deploy/systemd/`: by systemd's own word, and run as systemd would run it."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
from support.fetch import fetch
from support.node import EXAMPLES, Node
from support.patience import seconds, wait_until
from support.redis import RedisServer, free_port

from aperture.config.options import OPTIONS
from aperture.config.plan import parse
from aperture.errors import ExitCode

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "aperture.service"
SLIDERS = EXAMPLES / "apps" / "sliders.py"
EXPOSED = 2.0
"""Of ten: what systemd calls OK. A service without any of the settings has 9.6."""


def settings_in_unit() -> dict[str, list[str]]:
    """Every setting of the unit with its values, in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return dict(found)


def variables() -> dict[str, str]:
    """What the service has: those of the unit, and those of the file beside it."""
    said = shlex.split(settings_in_unit()["Environment"][0])
    lines = (FOLDER / "aperture.env").read_text().splitlines()
    said += [line for line in lines if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in said)


@pytest.fixture
def analyze(tmp_path: Path) -> list[str]:
    """The command, and the unit with a program that is there."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze on this machine")
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text().replace("/opt/aperture/bin/aperture", str(Path(sys.executable).parent / "aperture"))
    )
    return [program, str(unit)]


def asked(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(30), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_systemd_has_nothing_to_complain_of(analyze: list[str]) -> None:
    """Every setting is known, and its value one that it can have."""
    program, unit = analyze
    asked([program, "verify", "--man=no", unit])


def test_a_setting_that_nobody_knows_is_noticed(analyze: list[str]) -> None:
    """The test above would hold of anything, if nothing were looked at."""
    program, unit = analyze
    Path(unit).write_text(Path(unit).read_text().replace("LockPersonality=", "LockPersonalty="))
    with pytest.raises(AssertionError, match="LockPersonalty"):
        asked([program, "verify", "--man=no", unit])


def test_the_service_is_shut_in(analyze: list[str]) -> None:
    """By systemd's own reckoning of what a service that is taken over could do."""
    program, unit = analyze
    said = asked([program, "security", "--offline=yes", "--no-pager", unit])
    found = re.search(r"exposure level for \S+: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= EXPOSED, said


def test_the_settings_fit_the_node() -> None:
    """Variables are options, the node is given the time that it takes to stop, and what cannot work is not repeated."""
    unit, given = settings_in_unit(), variables()
    of_options = {name for name in given if name.startswith(("APERTURE_", "BOKEH_"))}
    assert of_options <= {option.environment for option in OPTIONS}
    settings = parse([str(SLIDERS)], given).settings
    assert settings.drain_delay + settings.shutdown_grace < float(unit["TimeoutStopSec"][0])
    assert settings.redis_wait
    assert unit["KillMode"] == ["mixed"], "a signal to the workers, too, would end them before they are asked"
    never = {int(code) for code in unit["RestartPreventExitStatus"][0].split()}
    assert never == {ExitCode.USAGE, ExitCode.APP_BROKEN}
    assert unit["ExecStart"][0].split()[1:] == ["serve", "$APPS"]


def test_it_is_started_reloaded_and_stopped(tmp_path: Path) -> None:
    """systemd is notified once pages are answered; the reload replaces the workers, and SIGTERM ends all with 0."""
    given = variables()
    assert Path(given.pop("APPS")).name == SLIDERS.name
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as channel, RedisServer(port=free_port()) as redis:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(seconds(60))
        given |= {"APERTURE_REDIS_URL": redis.url, "APERTURE_NUM_PROCS": "2", "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Node(SLIDERS, env=given, wait=False) as node:
            assert channel.recv(100) == b"READY=1"
            node.await_ready()
            assert fetch(node.app_url("/sliders")).status == 200
            before = set(node.worker_pids())
            (reload,) = settings_in_unit()["ExecReload"]
            subprocess.run(shlex.split(reload.replace("$MAINPID", str(node.pid))), check=True)
            wait_until(
                lambda: len(after := set(node.worker_pids())) == 2 and not after & before, 60, "still the old ones"
            )
            assert fetch(node.app_url("/sliders")).status == 200
            node.process.send_signal(signal.SIGTERM)
            assert node.wait(float(settings_in_unit()["TimeoutStopSec"][0])) == 0


def test_a_channel_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    """The node serves all the same."""
    with Node(SLIDERS, env={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as node:
        node.wait_for_log("systemd was not told")
        assert fetch(node.app_url("/sliders")).status == 200
