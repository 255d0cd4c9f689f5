"""What the command line, the environment and Bokeh's settings add up to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aperture.config import sources
from aperture.config.plan import ServePlan, parse
from aperture.config.settings import SessionIds, Settings, Tls
from aperture.errors import ConfigurationError

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def no_config_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `~/.bokeh/bokeh.yaml` holds: nothing, unless a test puts something in."""
    config: dict[str, Any] = {}
    monkeypatch.setattr(sources, "_user_config", lambda: config)
    return config


@pytest.fixture
def app(tmp_path: Path) -> str:
    script = tmp_path / "sliders.py"
    script.write_text("")
    return str(script)


def settings(*arguments: str, **environment: str) -> Settings:
    return parse(arguments, environment).settings


def refusal(*arguments: str, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        parse(arguments, environment)
    return str(refused.value)


def file(folder: Path, name: str) -> str:
    (folder / name).write_text("")
    return str(folder / name)


class TestDefaults:
    """No option was given."""

    def test_a_plan_without_anything_said_holds_the_defaults_of_settings(self) -> None:
        """`Settings()` and the options agree, except for the icon, which Bokeh has one of."""
        plan = parse([], {})
        assert plan.files == ()
        icon = plan.settings.ico_path
        assert icon is not None
        assert icon.endswith(".ico")
        assert plan.settings == Settings(ico_path=icon)

    def test_milliseconds_become_seconds(self) -> None:
        """Options keep Bokeh's unit, settings have one of their own."""
        given = settings("--keep-alive", "1500", "--unused-session-lifetime", "250", "--mem-log-frequency", "10")
        assert (given.keep_alive, given.unused_session_lifetime, given.mem_log_frequency) == (1.5, 0.25, 0.01)

    def test_zero_processes_are_one_per_usable_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a container may use counts, not what the machine has."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
        assert settings("--num-procs", "0").num_procs == 3

    def test_the_prefix_is_kept_as_urls_have_it(self) -> None:
        """It may be written like that, or plain."""
        for given in ("mein Präfix", "/mein%20Präfix/", "/mein%20Pr%C3%A4fix"):
            assert settings("--prefix", given).prefix == "/mein%20Pr%C3%A4fix"
        assert "not plain text" in refusal("--prefix", "a\tb")

    def test_the_prefix_is_brought_into_one_form(self) -> None:
        """Users write it with and without slashes."""
        assert [settings("--prefix", given).prefix for given in ("x", "/x", "x/", "/x/y/", "/", "")] == [
            "/x",
            "/x",
            "/x",
            "/x/y",
            "",
            "",
        ]

    def test_what_follows_args_belongs_to_the_apps(self, app: str) -> None:
        """Options among it, too."""
        plan = parse([app, "--show", "--args", "--port", "1", "x"], {})
        assert plan.app_arguments == ("--port", "1", "x")
        assert plan.show
        assert plan.settings.port == 5006


class TestPrecedence:
    """Command line, then APERTURE_*, then Bokeh's settings, then the default."""

    def test_each_source_yields_to_the_one_before(self, tmp_path: Path, no_config_file: dict[str, Any]) -> None:
        """Taken away one by one, the next one shows."""
        config = tmp_path / "settings.yaml"
        config.write_text("default_server_port: 3\n")
        no_config_file["default_server_port"] = 1
        environment = {"APERTURE_PORT": "4", "BOKEH_DEFAULT_SERVER_PORT": "2"}
        with_config = ["--use-config", str(config)]
        assert parse(["--port", "5", *with_config], environment).settings.port == 5
        assert parse(with_config, environment).settings.port == 4
        del environment["APERTURE_PORT"]
        assert parse(with_config, environment).settings.port == 3
        assert parse([], environment).settings.port == 2
        assert parse([], {}).settings.port == 1
        no_config_file.clear()
        assert parse([], {}).settings.port == 5006

    def test_the_config_file_may_be_named_in_the_environment(self, tmp_path: Path) -> None:
        """It is an option like every other."""
        config = tmp_path / "settings.yaml"
        config.write_text("cookie_secret: abc\nxsrf_cookies: true\n")
        given = settings(APERTURE_USE_CONFIG=str(config))
        assert (given.cookie_secret, given.xsrf_cookies) == ("abc", True)

    def test_an_empty_config_file_says_nothing(self, tmp_path: Path) -> None:
        """YAML reads it as null."""
        assert settings("--use-config", file(tmp_path, "empty.yaml")).port == 5006

    def test_an_empty_variable_is_not_set(self) -> None:
        """Compose files pass variables on that way."""
        assert settings(APERTURE_PORT="", BOKEH_DEFAULT_SERVER_PORT="", APERTURE_USE_XHEADERS="") == settings()

    def test_a_kubernetes_service_link_is_not_a_port(self) -> None:
        """A service named aperture puts APERTURE_PORT=tcp://… into every pod."""
        given = settings(APERTURE_PORT="tcp://10.0.0.1:5006", APERTURE_ADMIN_PORT="tcp://10.0.0.1:9006")
        assert (given.port, given.admin_port) == (5006, 9006)
        assert not given.admin_port_stated


class TestEnvironment:
    """Text becomes what the option needs."""

    @pytest.mark.parametrize("word", ["yes", "true", "1", "on", "YES", "True"])
    def test_words_for_yes(self, word: str) -> None:
        """In any case."""
        assert settings(APERTURE_USE_XHEADERS=word).use_xheaders

    @pytest.mark.parametrize("word", ["no", "false", "0", "off", "No", "OFF"])
    def test_words_for_no(self, word: str) -> None:
        """They are not true for being non-empty."""
        assert not settings(APERTURE_USE_XHEADERS=word).use_xheaders

    def test_any_other_word_is_refused(self) -> None:
        """Guessing would turn a protection off."""
        assert "APERTURE_ENABLE_XSRF_COOKIES=maybe" in refusal(APERTURE_ENABLE_XSRF_COOKIES="maybe")

    def test_lists_are_separated_by_commas(self) -> None:
        """Blanks around the parts are not part of them."""
        given = settings(APERTURE_INCLUDE_HEADERS="Host, User-Agent", APERTURE_ALLOW_WEBSOCKET_ORIGIN="a,b:81")
        assert given.include_headers == ("Host", "User-Agent")
        assert given.allow_websocket_origin == ("a", "b:81")

    @pytest.mark.parametrize(
        ("variable", "text", "complaint"),
        [
            ("APERTURE_PORT", "x", "not a whole number"),
            ("BOKEH_DEFAULT_SERVER_PORT", "5.5", "not a whole number"),
            ("APERTURE_SHUTDOWN_GRACE", "soon", "not a number"),
            ("APERTURE_SHUTDOWN_GRACE", "nan", "must be 0.1 or more"),
            ("APERTURE_SESSION_IDS", "secret", "must be one of"),
            ("APERTURE_LOG_LEVEL", "loud", "must be one of"),
            ("BOKEH_PY_LOG_LEVEL", "loud", "must be one of"),
        ],
    )
    def test_a_complaint_names_its_source(self, variable: str, text: str, complaint: str) -> None:
        """The message names the variable that was set."""
        message = refusal(**{variable: text})
        assert message.startswith(f"{variable}={text}: ")
        assert complaint in message

    def test_dev_takes_files_or_a_word(self, app: str, tmp_path: Path) -> None:
        """On the command line it may stand alone, which a variable cannot."""
        further = file(tmp_path, "more.txt")
        assert parse([app], {"APERTURE_DEV": "yes"}).settings.dev
        assert not parse([app], {"APERTURE_DEV": "no"}).settings.dev
        assert parse([app], {"APERTURE_DEV": further}).watched == (further,)

    def test_bokehs_list_of_origins_is_left_to_the_worker(self) -> None:
        """It is read when a websocket opens, and replaces the option then."""
        assert settings(BOKEH_ALLOW_WS_ORIGIN="elsewhere").allow_websocket_origin is None


class TestSigning:
    """Who makes session ids, and with which key."""

    @pytest.mark.parametrize(("word", "mode"), [("no", SessionIds.UNSIGNED), ("yes", SessionIds.SIGNED)])
    def test_bokehs_variable_is_read_as_a_boolean(self, word: str, mode: SessionIds) -> None:
        """In `bokeh serve` "no" is a non-empty string and turns signing on."""
        assert settings(BOKEH_SIGN_SESSIONS=word, BOKEH_SECRET_KEY=KEY).session_ids is mode

    def test_a_word_that_is_neither_is_refused(self) -> None:
        """With the variable's name."""
        assert refusal(BOKEH_SIGN_SESSIONS="perhaps").startswith("BOKEH_SIGN_SESSIONS=perhaps")

    def test_the_option_wins_over_the_variable(self) -> None:
        """As it does in Bokeh."""
        assert settings("--session-ids", "unsigned", BOKEH_SIGN_SESSIONS="yes").session_ids is SessionIds.UNSIGNED

    @pytest.mark.parametrize("mode", ["signed", "external-signed"])
    def test_signing_needs_a_key(self, mode: str) -> None:
        """Each node would make its own otherwise, and refuse the others' ids."""
        assert "BOKEH_SECRET_KEY" in refusal("--session-ids", mode)
        given = settings("--session-ids", mode, BOKEH_SECRET_KEY=KEY)
        assert given.session_ids is SessionIds(mode)
        assert given.secret_key == KEY.encode()


class TestContradictions:
    """Options that cannot hold together, as in Bokeh."""

    def test_session_urls_need_a_server_that_makes_ids(self) -> None:
        """Another program makes them with `external-signed`."""
        assert "contradict" in refusal("--session-urls", "--session-ids", "external-signed", BOKEH_SECRET_KEY=KEY)
        assert settings("--session-urls", "--session-ids", "signed", BOKEH_SECRET_KEY=KEY).session_urls

    def test_users_are_named_in_one_way(self, tmp_path: Path) -> None:
        """By the header of a proxy, or by an auth module."""
        module = file(tmp_path, "auth.py")
        assert "contradict" in refusal("--user-header", "X-User", "--auth-module", module)

    @pytest.mark.parametrize("kind", ["headers", "cookies"])
    def test_include_and_exclude_of_one_kind(self, kind: str) -> None:
        """The one makes the other meaningless."""
        assert f"--include-{kind}" in refusal(f"--include-{kind}", "a", f"--exclude-{kind}", "b")

    def test_a_unix_socket_has_no_port(self) -> None:
        """A port that is named must be had."""
        assert "--port" in refusal("--unix-socket", "/tmp/s", "--port", "5007")
        assert "--port" in refusal("--unix-socket", "/tmp/s", APERTURE_PORT="5007")

    def test_bokehs_default_port_does_not_count_as_named(self) -> None:
        """A machine-wide default is no statement about this server."""
        assert settings("--unix-socket", "/tmp/s", BOKEH_DEFAULT_SERVER_PORT="5007").unix_socket == "/tmp/s"

    def test_a_unix_socket_has_no_address(self) -> None:
        """Nor has it TLS."""
        assert "--address" in refusal("--unix-socket", "/tmp/s", "--address", "localhost")

    def test_a_unix_socket_has_no_tls(self, tmp_path: Path) -> None:
        """The proxy in front ends it."""
        certificate = file(tmp_path, "cert.pem")
        assert "--ssl-certfile" in refusal("--unix-socket", "/tmp/s", "--ssl-certfile", certificate)

    def test_a_unix_socket_admits_no_foreign_origin_unless_told(self) -> None:
        """There is no port that `localhost:<port>` could stand for."""
        assert settings("--unix-socket", "/tmp/s").allow_websocket_origin == ()
        assert settings("--unix-socket", "/tmp/s", "--allow-websocket-origin", "a").allow_websocket_origin == ("a",)

    def test_a_key_without_a_certificate(self, tmp_path: Path) -> None:
        """Bokeh would serve plain HTTP without a word."""
        assert "--ssl-certfile" in refusal("--ssl-keyfile", file(tmp_path, "key.pem"))

    def test_dev_takes_exactly_one_app(self, app: str, tmp_path: Path) -> None:
        """It watches one."""
        assert "exactly one app, and 0" in refusal("--dev")
        assert "exactly one app, and 2" in refusal(app, file(tmp_path, "other.py"), "--dev")

    def test_dev_runs_one_worker(self, app: str) -> None:
        """Whatever else was asked for."""
        assert settings(app, "--num-procs", "4", "--dev").num_procs == 1


class TestRanges:
    """Numbers that make no sense."""

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("--port", "-1"),
            ("--port", "65536"),
            ("--keep-alive", "-1"),
            ("--check-unused-sessions", "0"),
            ("--unused-session-lifetime", "0"),
            ("--stats-log-frequency", "0"),
            ("--mem-log-frequency", "-1"),
            ("--num-procs", "-1"),
            ("--session-token-expiration", "0"),
            ("--websocket-max-message-size", "0"),
            ("--websocket-compression-level", "10"),
            ("--websocket-compression-mem-level", "0"),
            ("--shutdown-grace", "0"),
            ("--head-timeout", "-1"),
            ("--head-timeout", "inf"),
            ("--max-head-size", "10"),
            ("--max-head-size", "200000"),
            ("--max-pending-connections", "0"),
            ("--outbox-limit", "0"),
            ("--admin-port", "65536"),
            ("--admin-port", "some"),
        ],
    )
    def test_a_number_out_of_range_is_refused(self, flag: str, value: str) -> None:
        """With the option and the value that was given."""
        assert refusal(flag, value).startswith(f"{flag}={value}")

    def test_zero_turns_pings_off(self) -> None:
        """As in Bokeh."""
        assert settings("--keep-alive", "0").keep_alive == 0

    def test_the_admin_endpoints_can_be_turned_off(self) -> None:
        """And 0 asks for any free port."""
        assert settings("--admin-port", "none").admin_port is None
        assert settings("--admin-port", "0").admin_port == 0


class TestFiles:
    """What is named must be there."""

    @pytest.mark.parametrize("flag", ["--index", "--auth-module", "--ssl-certfile", "--use-config"])
    def test_a_missing_file_is_refused(self, flag: str, tmp_path: Path) -> None:
        """At the start, not when the first request needs it."""
        missing = str(tmp_path / "missing")
        message = refusal(flag, missing)
        assert flag in message
        assert missing in message

    def test_a_missing_icon_is_refused(self, tmp_path: Path) -> None:
        """And so is a file that is no icon."""
        assert "--ico-path" in refusal("--ico-path", str(tmp_path / "missing.ico"))
        assert "--ico-path" in refusal("--ico-path", file(tmp_path, "icon.png"))

    def test_there_may_be_no_icon(self) -> None:
        """Then favicon.ico is answered with 404."""
        assert settings("--ico-path", "none").ico_path is None
        assert settings(BOKEH_ICO_PATH="none").ico_path is None

    def test_paths_become_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Apps may change the directory."""
        file(tmp_path, "index.html")
        monkeypatch.chdir(tmp_path)
        assert settings("--index", "index.html").index == str(tmp_path / "index.html")

    def test_certificate_key_and_password_travel_together(self, tmp_path: Path) -> None:
        """The password only ever comes from the environment."""
        certificate, key = file(tmp_path, "cert.pem"), file(tmp_path, "key.pem")
        environment = {"BOKEH_SSL_KEYFILE": key, "BOKEH_SSL_PASSWORD": "p"}
        assert settings("--ssl-certfile", certificate, **environment).tls == Tls(certificate, key, "p")

    @pytest.mark.parametrize("name", ["missing.py", "notes.txt", "folder"])
    def test_what_is_no_app_is_refused(self, name: str, tmp_path: Path) -> None:
        """A missing path, a file of another kind, and a folder without a main.py."""
        file(tmp_path, "notes.txt")
        (tmp_path / "folder").mkdir()
        assert name in refusal(str(tmp_path / name))

    @pytest.mark.parametrize("main", ["main.py", "main.ipynb"])
    def test_a_folder_with_a_main_is_an_app(self, main: str, tmp_path: Path) -> None:
        """Both kinds, as in Bokeh."""
        file(tmp_path, main)
        assert parse([str(tmp_path)], {}).files == (str(tmp_path),)

    def test_patterns_are_expanded_on_request(self, tmp_path: Path) -> None:
        """In order, and each app once."""
        names = [file(tmp_path, name) for name in ("b.py", "a.py")]
        plan = parse(["--glob", str(tmp_path / "*.py"), str(tmp_path / "a*")], {})
        assert plan.files == tuple(sorted(names))

    def test_a_pattern_that_matches_nothing_is_refused(self, tmp_path: Path) -> None:
        """Bokeh would serve an empty page."""
        assert "nothing matches" in refusal("--glob", str(tmp_path / "*.py"))

    @pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "text"])
    def test_a_config_that_is_no_mapping_is_refused(self, content: str, tmp_path: Path) -> None:
        """With the file's name."""
        config = tmp_path / "settings.yaml"
        config.write_text(content)
        assert str(config) in refusal("--use-config", str(config))


def test_a_plan_tells_where_to_log(tmp_path: Path) -> None:
    """`--log-level None` is Bokeh's way to say nothing."""
    environment: Mapping[str, str] = {"APERTURE_LOG_FILE": "x.log", "BOKEH_PY_LOG_LEVEL": "WARNING"}
    plan: ServePlan = parse(["--log-format", "%(message)s"], environment)
    assert (plan.log_format, plan.log_file, plan.settings.log_level) == ("%(message)s", "x.log", "warning")
    assert parse(["--log-level", "None"], {}).settings.log_level == "info"


def test_secrets_do_not_show_in_the_settings() -> None:
    """They are logged when something goes wrong."""
    shown = repr(settings(BOKEH_SECRET_KEY=KEY, BOKEH_COOKIE_SECRET="crumbs"))
    assert KEY not in shown
    assert "crumbs" not in shown


class TestBus:
    """Where Redis is, and how it is spoken to."""

    def test_everything_said_about_redis_reaches_the_settings(self, tmp_path: Path) -> None:
        """From the command line and from the environment."""
        ca, cert, key = (file(tmp_path, name) for name in ("ca.pem", "cert.pem", "key.pem"))
        said = settings(
            *("--redis-url", "rediss://cache:7000", "--redis-namespace", "prod", "--redis-ca", ca),
            *(
                "--redis-cert",
                cert,
                "--redis-key",
                key,
                "--redis-start",
                "wait",
                "--lease",
                "3",
                "--spread-viewers",
                "0",
            ),
            APERTURE_REDIS_PASSWORD="word",
        )
        assert said.redis_url == "rediss://cache:7000"
        assert (said.redis_namespace, said.redis_password) == ("prod", "word")
        assert (said.redis_ca, said.redis_cert, said.redis_key) == (ca, cert, key)
        assert (said.redis_wait, said.lease, said.spread_viewers) == (True, 3.0, 0)
        assert settings(APERTURE_REDIS_URL="unix:///run/redis").redis_url == "unix:///run/redis"

    def test_no_password_is_shown(self) -> None:
        """Settings end in logs."""
        said = settings("--redis-url", "redis://:hunter2@cache", "--redis-password", "hunter2")
        assert "hunter2" not in repr(said)

    def test_what_cannot_be_is_refused(self, tmp_path: Path) -> None:
        """Before anything is started."""
        assert "--redis-url" in refusal("--redis-url", "http://cache")
        assert "--redis-namespace" in refusal("--redis-namespace", "a:b")
        assert "--redis-cert" in refusal("--redis-key", file(tmp_path, "key.pem"))
        assert "--redis-ca" in refusal("--redis-ca", str(tmp_path / "nothing.pem"))
        assert "--lease" in refusal("--lease", "0.1")

    @pytest.mark.parametrize(
        "said",
        [
            ("--redis-password", "word"),
            ("--redis-start", "wait"),
            ("--redis-ca", __file__),
            ("--redis-cert", __file__),
            ("--redis-cert", __file__, "--redis-key", __file__),
            ("--redis-namespace", "prod"),
        ],
    )
    def test_what_is_said_of_a_redis_that_is_not_named_is_refused(self, said: tuple[str, ...]) -> None:
        """Its URL was forgotten, or its variable is empty: the node would start, alone."""
        refused = refusal(*said, APERTURE_REDIS_URL="")
        assert said[0] in refused
        assert "--redis-url" in refused
        assert settings("--redis-namespace", "default", "--redis-start", "fail").redis_url is None


class TestDashboard:
    """`--admin`."""

    def test_it_is_off_unless_asked_for(self) -> None:
        """By the option, or by its variable."""
        assert settings().dashboard is False
        assert settings("--admin").dashboard is True
        assert settings(APERTURE_ADMIN="yes").dashboard is True

    def test_what_would_show_nothing_is_refused(self) -> None:
        """Without metrics there is nothing to draw."""
        assert "--disable-metrics" in refusal("--admin", "--disable-metrics")

    def test_an_app_of_its_name_is_refused(self, tmp_path: Path) -> None:
        """One of the two would hide the other; without `--admin` the name is free."""
        named = file(tmp_path, "admin.py")
        assert f"--admin serves its dashboard at /admin, where {named} is" in refusal(named, "--admin")
        assert settings(named).dashboard is False
        folder = tmp_path / "admin.v2"
        folder.mkdir()
        file(folder, "main.py")
        assert settings(str(folder), "--admin").dashboard is True, "the app is at /admin.v2"
