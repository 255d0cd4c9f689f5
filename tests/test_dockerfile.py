"""The container's files: what the Dockerfile copies is there, and what it says of the command is true."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from support.dockerfile import ROOT, ignored, programs, stages

from aperture.config.options import BY_NAME, OPTIONS
from aperture.config.plan import parse

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
ENTRYPOINT = ROOT / "deploy" / "entrypoint.sh"


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    """A build that fails at its fifth step is found here, without a build."""
    copied = [source for stage in stages() for sources, _ in stage.copies() for source in sources]
    assert {"shared", "gateway", "worker", "requirements/runtime.txt"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


def test_nothing_else_is_sent_to_the_build() -> None:
    """Neither the history nor a file with secrets gets into a layer."""
    for path in (".git/config", ".env", "tests/conftest.py", "deploy/kubernetes/overlays/small/secrets.env", "docs"):
        assert ignored(path), path
    assert ignored("shared/__pycache__/log.pyc")


def test_the_image_has_the_wheel_and_not_the_source() -> None:
    """The last stage copies from the build what was installed there, and two small programs."""
    *_, image = stages()
    assert image.copies() == [], "the repository is not in the last stage"
    assert image.all("COPY") == ["--from=extras /opt/aperture /opt/aperture", "--from=build /own /"]
    assert set(programs().values()) == {"deploy/entrypoint.sh", "deploy/probe.py"}
    assert image.all("RUN") == [], "nothing is fetched or built in the last stage"


def test_what_is_installed_is_locked() -> None:
    """What may be fetched is what is locked, and what a build asks for within the locked versions."""
    fetching = [said for stage in stages() for said in stage.all("RUN") if "--no-index" not in said and "pip" in said]
    locked, extras, own = fetching
    assert '"--requirement", "/opt/aperture/locked.txt"' in locked
    assert '--constraint locked.txt --requirement "extras/$extra.txt"' in extras
    assert "--constraint /opt/aperture/locked.txt $PACKAGES" in own
    (copied,) = [target for sources, target in stages()[0].copies() if sources == ["requirements/runtime.txt"]]
    assert copied == "/opt/aperture/locked.txt"


def test_neither_builder_is_needed() -> None:
    """Docker of Debian's packages builds without BuildKit, and a syntax line would ask a registry for a program."""
    assert not any("--chmod" in said or "--mount" in said for stage in stages() for _, said in stage.instructions)
    assert "syntax=" not in DOCKERFILE.read_text()


def test_the_user_is_a_number_and_not_root() -> None:
    """Kubernetes cannot see of a name whether it is root."""
    *_, image = stages()
    user, group = image.one("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_commands_are_in_exec_form_and_installed() -> None:
    """A shell as process 1 would keep the signals to itself."""
    *_, image = stages()
    assert image.command("ENTRYPOINT")[0] in programs()
    assert image.command("HEALTHCHECK")[0] in programs()
    assert image.command("CMD") == []
    assert image.one("STOPSIGNAL") == "SIGTERM"


def test_variables_are_options_and_ports_are_exposed() -> None:
    """What the image sets for the command is something that the command reads."""
    *_, image = stages()
    given = {name: value for name, value in image.environment().items() if name.startswith("APERTURE_")}
    assert given.keys() <= {option.environment for option in OPTIONS}
    settings = parse([], given).settings
    assert settings.admin_address == "*", "a cluster may be of IPv6 alone"
    assert [settings.port, settings.admin_port] == [int(port) for port in image.one("EXPOSE").split()]
    assert settings.port == BY_NAME["port"].default


def test_the_probe_needs_a_port_and_asks_where_the_node_listens() -> None:
    """What cannot be asked is said in a sentence; the address and the port are the node's own."""

    def probe(**given: str) -> str:
        given = {f"APERTURE_ADMIN_{name}": value for name, value in given.items()}
        command = [sys.executable, str(ROOT / "deploy" / "probe.py"), "/livez"]
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.stderr.strip() if done.returncode else "well"

    assert probe(PORT="none") == "no port to ask at: APERTURE_ADMIN_PORT=none"
    assert probe(PORT="0") == "no port to ask at: APERTURE_ADMIN_PORT=0"
    with HTTPServer(("127.0.0.2", 0), _Well) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            port = str(server.server_port)
            assert probe(PORT=port, ADDRESS="127.0.0.2") == "well"
            assert probe(PORT=port, ADDRESS="*").startswith(f"no answer at port {port}")
        finally:
            server.shutdown()


class _Well(BaseHTTPRequestHandler):
    """Answers 200."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


# The entry point, with an `aperture` that says what it was given


def given(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point; each word that reaches `aperture` is a line."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "aperture").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (programs / "aperture").chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "APPS_FOLDER": str(folder / "apps")}
    return subprocess.run(
        ["/bin/sh", str(ENTRYPOINT), *arguments], env=environment, capture_output=True, text=True, check=False
    )


def apps_in(folder: Path) -> Path:
    """A folder with an app of each kind, and with what is none."""
    apps = folder / "apps"
    for name in ("one.py", "with space.py", "note.ipynb", "dir/main.py", "sheet/main.ipynb"):
        (apps / name).parent.mkdir(parents=True, exist_ok=True)
        (apps / name).touch()
    for name in ("README.md", "data.csv", "lib/helpers.py", "__pycache__/one.pyc"):
        (apps / name).parent.mkdir(parents=True, exist_ok=True)
        (apps / name).touch()
    return apps


def test_the_entry_point_serves_what_is_an_app(tmp_path: Path) -> None:
    """Scripts, notebooks and folders with a main file; what else lies there is passed over."""
    apps = apps_in(tmp_path)
    words = given(tmp_path).stdout.splitlines()
    assert words[0] == "serve"
    assert set(words[1:]) == {str(apps / name) for name in ("one.py", "with space.py", "note.ipynb", "dir", "sheet")}


def test_options_come_after_the_apps_and_in_their_order(tmp_path: Path) -> None:
    """`--args` takes everything that follows it, and spaces stay where they are."""
    apps = apps_in(tmp_path)
    options = ["--num-procs", "4", "--args", "--from", "a b"]
    words = given(tmp_path, *options).stdout.splitlines()
    assert words[-len(options) :] == options
    assert str(apps / "with space.py") in words[1 : -len(options)]


def test_another_command_is_run_as_it_is(tmp_path: Path) -> None:
    """`docker run IMAGE aperture serve …`, and a shell to look around."""
    assert given(tmp_path, "aperture", "serve", "x.py").stdout.splitlines() == ["serve", "x.py"]
    assert given(tmp_path, "echo", "here").stdout == "here\n"


def test_a_folder_without_apps_is_said_so(tmp_path: Path) -> None:
    """Instead of an empty page: the folder that was to be mounted is named."""
    (tmp_path / "apps").mkdir()
    ended = given(tmp_path, "--num-procs", "2")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert str(tmp_path / "apps") in ended.stderr


def test_a_main_file_beside_the_apps_is_a_script(tmp_path: Path) -> None:
    """A folder that is itself an app, mounted as the folder of apps, does not make an app of its parent."""
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "main.py").touch()
    assert given(tmp_path).stdout.splitlines() == ["serve", str(tmp_path / "apps" / "main.py")]
