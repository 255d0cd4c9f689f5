"""The command, as far as it goes without binding or forking."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

import pytest

import aperture
from aperture.config.plan import parse
from aperture.config.settings import Settings, Tls
from aperture.errors import AppLoadError, ConfigurationError, ExitCode
from aperture.gateway import cli


def write(path: Path, source: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return str(path)


class TestCommand:
    """What the process answers and with which code it ends."""

    def test_the_version_is_the_packages(self, capsys: pytest.CaptureFixture[str]) -> None:
        """On standard output, as usual."""
        with pytest.raises(SystemExit) as ended:
            cli.main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"aperture {aperture.__version__}\n"

    def test_without_a_command_it_explains_itself(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With the code for wrong usage."""
        with pytest.raises(SystemExit) as ended:
            cli.main([])
        assert ended.value.code == ExitCode.USAGE
        assert "serve" in capsys.readouterr().err

    def test_help_lists_every_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        """And prints, which a stray percent sign in a help text would prevent."""
        with pytest.raises(SystemExit):
            cli.main(["serve", "--help"])
        assert "--outbox-limit" in capsys.readouterr().out

    @pytest.mark.parametrize("command", ["secret", "info", "html"])
    def test_bokehs_other_commands_are_bokehs(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        """For a script in which every `bokeh` was replaced: the message names the program."""
        assert cli.main([command, "--anything"]) == ExitCode.USAGE
        assert f"`bokeh {command}`" in capsys.readouterr().err

    def test_wrong_usage_is_one_line_and_code_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        """No traceback for a typing mistake."""
        assert cli.main(["serve", "nowhere/app.py"]) == ExitCode.USAGE
        assert capsys.readouterr().err == "aperture: error: nowhere/app.py does not exist\n"

    @pytest.mark.parametrize(("command", "code"), [("doctor", 130), ("serve", 0)])
    def test_ctrl_c_is_no_answer(self, command: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is how a server is stopped, and an examination that was broken off has not found that all is well."""

        def interrupted(*given: object) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "doctor", interrupted)
        monkeypatch.setattr(cli, "run", interrupted)
        assert cli.main([command, *(["http://localhost"] if command == "doctor" else [])]) == code

    def test_windows_is_told_in_one_sentence(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """There is no fork to build on."""
        monkeypatch.setattr(sys, "platform", "win32")
        assert cli.main(["serve"]) == ExitCode.USAGE
        assert "bokeh serve" in capsys.readouterr().err


class TestApplications:
    """From paths to routes."""

    def test_no_file_is_an_empty_app_at_the_root(self) -> None:
        """As in Bokeh: a client may push a document to it."""
        assert list(cli.load_applications([], [])) == ["/"]

    def test_routes_are_the_names_without_suffix(self, tmp_path: Path) -> None:
        """A folder's name for a folder."""
        files = [write(tmp_path / "one.py"), str(Path(write(tmp_path / "two" / "main.py")).parent)]
        assert list(cli.load_applications(files, [])) == ["/one", "/two"]

    def test_apps_are_not_run_when_loaded(self, tmp_path: Path) -> None:
        """A worker does that, once per session."""
        assert cli.load_applications([write(tmp_path / "app.py", "raise ValueError")], [])["/app"].safe_to_fork

    def test_an_app_with_a_syntax_error_is_broken(self, tmp_path: Path) -> None:
        """The message holds Python's own, with the file's name."""
        path = write(tmp_path / "app.py", "def (:")
        with pytest.raises(AppLoadError, match=r"SyntaxError|invalid syntax") as broken:
            cli.load_applications([path], [])
        assert broken.value.path == path

    def test_a_broken_app_ends_the_start_with_its_own_code(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Starting again would end the same way, as a service manager can see by the code."""
        monkeypatch.setattr(cli, "_set_up_logging", lambda plan: None)
        assert cli.main(["serve", write(tmp_path / "app.py", "def (:")]) == ExitCode.APP_BROKEN
        assert "app.py" in capsys.readouterr().err

    def test_two_apps_of_one_name_are_refused(self, tmp_path: Path) -> None:
        """In Bokeh the second silently takes the first one's place."""
        with pytest.raises(ConfigurationError, match="/app"):
            cli.load_applications([write(tmp_path / "a" / "app.py"), write(tmp_path / "b" / "app.py")], [])


class TestAddresses:
    """What the log says about where the apps are."""

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            (Settings(), "http://localhost:5006/app"),
            (Settings(port=80, address="0.0.0.0"), "http://0.0.0.0:80/app"),
            (Settings(address="::1"), "http://[::1]:5006/app"),
            (Settings(address="*"), "http://localhost:5006/app"),
            (Settings(prefix="/p", tls=Tls("cert.pem")), "https://localhost:5006/p/app"),
        ],
    )
    def test_a_url_names_scheme_host_port_and_prefix(self, settings: Settings, expected: str) -> None:
        """As a browser needs it."""
        assert cli.app_urls(settings, ["/app"]) == [expected]

    def test_urls_are_sorted_and_the_root_has_its_slash(self) -> None:
        """One line each."""
        assert cli.app_urls(Settings(), ["/b", "/", "/a"]) == [
            "http://localhost:5006/",
            "http://localhost:5006/a",
            "http://localhost:5006/b",
        ]

    def test_a_unix_socket_has_no_url(self) -> None:
        """The proxy in front knows it."""
        assert cli.app_urls(Settings(unix_socket="/tmp/s"), ["/app"]) == []

    def test_a_ready_node_says_where_everything_is(self, caplog: pytest.LogCaptureFixture) -> None:
        """App URLs and the admin URL, one a line."""
        caplog.set_level(logging.INFO, "aperture")
        cli._announce(parse([], {}), Settings(port=5007), ["/a", "/b"], 9007)
        assert caplog.messages[:3] == [
            "Bokeh app running at: http://localhost:5007/a",
            "Bokeh app running at: http://localhost:5007/b",
            "Admin endpoints at: http://127.0.0.1:9007",
        ]

    def test_a_standard_output_that_is_none_stops_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Closed by who started this, never there, or something that is no file."""
        plan = parse([], {})  # from Python 3.14 on a parser asks the standard output whether it has colours
        for stream in (None, io.StringIO(), _closed_file()):
            monkeypatch.setattr(sys, "stdout", stream)
            cli._announce(plan, Settings(), ["/a"], None)

    def test_a_full_pipe_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its reader has other things to do; the log has the addresses, too."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 65536)
        os.set_blocking(writing, True)
        with open(writing, "w") as pipe, open(reading, "rb"):
            monkeypatch.setattr(sys, "stdout", pipe)
            cli._announce(parse([], {}), Settings(), ["/a"], None)

    def test_a_taken_admin_port_comes_with_the_way_out(self) -> None:
        """Two servers may share an environment, and the option is not one of Bokeh's."""
        taken = OSError(errno.EADDRINUSE, "Address already in use (127.0.0.1:9006)")
        assert "--admin-port" in cli._bind_complaint(Settings(), taken)
        taken = OSError(errno.EADDRINUSE, "Address already in use (*:5006)")
        assert "--admin-port" not in cli._bind_complaint(Settings(), taken)


def _closed_file() -> TextIO:
    with open(os.devnull, "w") as file:
        return file
