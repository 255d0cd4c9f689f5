"""From keywords to settings: two vocabularies, one table of checks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from bokeh.server.auth_provider import NullAuth
from bokeh.server.server import _ServerOpts
from bokeh.server.tornado import BokehTornado
from bokeh.settings import settings as bokeh_settings

from aperture.config import keywords
from aperture.config.keywords import OF_FILES, OF_THE_NODE, ServerPlan, plan_of, with_bokehs_settings
from aperture.config.options import OPTIONS
from aperture.config.settings import Durability, SessionIds, Settings, Tls
from aperture.errors import ConfigurationError

BOKEH = {
    *(name for name, kind in inspect.signature(BokehTornado).parameters.items() if kind.kind is kind.KEYWORD_ONLY),
    *_ServerOpts.properties(),
}
"""Every keyword of Bokeh's Server."""


def plan(**given: Any) -> ServerPlan:
    return plan_of(given, None, on_loop=False)


def settings(**given: Any) -> Settings:
    return plan(**given).settings


class TestNames:
    """What may be said."""

    @pytest.mark.parametrize("name", sorted(BOKEH))
    def test_every_keyword_of_bokehs_server_is_one(self, name: str) -> None:
        """It means something, and is not passed on to Tornado as a stranger."""
        assert not keywords._is_tornados(name, "text")

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
    def test_every_option_of_the_command_line_is_one(self, option: Any) -> None:
        """With underscores; but for those that are about files, which say what to do instead."""
        if option.name not in OF_FILES:
            assert not keywords._is_tornados(option.name, "text")
            return
        with pytest.raises(ConfigurationError, match=rf"^{option.name} belongs to the command line"):
            plan(**{option.name: "x"})

    def test_the_rest_is_tornados(self) -> None:
        """Bokeh passes on what it does not know, and programs rely on it."""
        assert settings(greeting="hello", debug=True).tornado_settings == {"greeting": "hello", "debug": True}

    @pytest.mark.parametrize(
        ("slip", "meant"),
        [
            ("redis_ur", "redis_url"),
            ("keepalive_milliseconds", "keep_alive_milliseconds"),
            ("allow_websocket_origins", "allow_websocket_origin"),
            ("extra_pattern", "extra_patterns"),
            ("ioloop", "io_loop"),
        ],
    )
    def test_a_slip_of_the_pen_is_an_error(self, slip: str, meant: str) -> None:
        """Passed on to Tornado it would do nothing, in silence."""
        with pytest.raises(ConfigurationError, match=rf"{slip} is no keyword of Server; did you mean {meant}\?"):
            plan(**{slip: 1})

    def test_one_thing_under_two_names_is_an_error(self) -> None:
        """Which of them counts would be a guess."""
        with pytest.raises(ConfigurationError, match="keep_alive_milliseconds"):
            plan(keep_alive=1, keep_alive_milliseconds=2)

    def test_none_is_as_good_as_nothing(self) -> None:
        """Programs pass their own defaults through."""
        assert settings(**dict.fromkeys(sorted(BOKEH))) == settings()


class TestValues:
    """What it means."""

    def test_defaults_are_the_command_lines(self) -> None:
        """But for the admin port, and for patches of the program's Bokeh, which a program has to ask for."""
        expected = Settings(admin_port=None, admin_port_stated=True, ico_path=settings().ico_path, lean_models=False)
        assert settings() == expected

    def test_lean_models(self) -> None:
        """One process has them where it asks for them, and workers of the server's own unless it asks for none."""
        assert settings(lean_models=True).lean_models is settings(stock_models=False).lean_models is True
        assert settings(lean_models=False).lean_models is settings(stock_models=True).lean_models is False
        assert settings(num_procs=2).lean_models is True
        assert settings(num_procs=2, lean_models=False).lean_models is False

    def test_milliseconds_under_both_names(self) -> None:
        """Bokeh's keyword and the option are in the same unit."""
        assert settings(keep_alive_milliseconds=1500).keep_alive == settings(keep_alive=1500).keep_alive == 1.5

    def test_switches_that_bokeh_has_on(self) -> None:
        """`use_index` and `redirect_root` are the reverse of what the command line has."""
        given = settings(use_index=False, redirect_root=False)
        assert (given.use_index, given.redirect_root) == (False, False)
        assert settings(disable_index=True).use_index is False

    @pytest.mark.parametrize(
        ("given", "mode"),
        [
            ({}, SessionIds.UNSIGNED),
            ({"sign_sessions": True, "secret_key": b"k"}, SessionIds.SIGNED),
            (
                {"sign_sessions": True, "secret_key": b"k", "generate_session_ids": False},
                SessionIds.EXTERNAL_SIGNED,
            ),
            ({"generate_session_ids": False}, SessionIds.EXTERNAL_UNSIGNED),
            ({"session_ids": "external-signed", "secret_key": "k"}, SessionIds.EXTERNAL_SIGNED),
        ],
    )
    def test_who_makes_ids(self, given: dict[str, Any], mode: SessionIds) -> None:
        """Bokeh's two switches say what the command line says in one word."""
        assert settings(**given).session_ids is mode

    def test_a_key_is_bytes_or_text(self) -> None:
        """Bokeh's Server takes bytes; any will do."""
        assert settings(secret_key=b"\xff\x00").secret_key == b"\xff\x00"
        assert settings(secret_key="key").secret_key == b"key"

    def test_bokehs_environment_is_heeded_where_its_server_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The port, the key and whether ids are signed; but not our own variables, which are for commands."""
        monkeypatch.setenv("BOKEH_SECRET_KEY", "from outside")
        monkeypatch.setenv("BOKEH_SIGN_SESSIONS", "yes")
        monkeypatch.setenv("BOKEH_DEFAULT_SERVER_PORT", "5017")
        monkeypatch.setenv("APERTURE_NUM_PROCS", "7")
        given = settings()
        assert (given.secret_key, given.session_ids) == (b"from outside", SessionIds.SIGNED)
        assert (given.port, given.num_procs) == (5017, 1)
        assert settings(port=5018).port == 5018
        assert settings(unix_socket="/socket").unix_socket == "/socket"
        assert settings(sign_sessions=False).session_ids is SessionIds.UNSIGNED

    def test_bokehs_settings_say_what_no_keyword_does(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """For `Server.from_settings`: from variables, and from what the program itself has set."""
        for name in ("auth.py", "cert.pem"):
            (tmp_path / name).write_text("")
        monkeypatch.setenv("BOKEH_SSL_CERTFILE", str(tmp_path / "cert.pem"))
        monkeypatch.setenv("BOKEH_AUTH_MODULE", str(tmp_path / "auth.py"))
        monkeypatch.setenv("BOKEH_XSRF_COOKIES", "yes")
        by_the_program = {"secret_key": "of the program", "cookie_secret": "of cookies", "sign_sessions": True}
        try:
            for name, value in by_the_program.items():
                setattr(bokeh_settings, name, value)
            given = settings(**with_bokehs_settings({"port": 5018, "cookie_secret": "mine", "ssl_password": None}))
        finally:
            for name in by_the_program:
                getattr(bokeh_settings, name).unset_value()
        assert (given.port, given.cookie_secret, given.xsrf_cookies) == (5018, "mine", True)
        assert (given.secret_key, given.session_ids) == (b"of the program", SessionIds.SIGNED)
        assert given.auth_module == str(tmp_path / "auth.py")
        assert given.tls is not None
        assert given.tls.certfile == str(tmp_path / "cert.pem")
        assert "auth_module" not in with_bokehs_settings({"auth_provider": NullAuth()})
        assert settings().tls is None, "the constructor alone does not look there"

    def test_origins_under_both_names_are_added_up(self) -> None:
        """The second is what Bokeh's inner class calls them. A single one may be bare."""
        given = settings(allow_websocket_origin=["a:1"], extra_websocket_origins={"b:2"})
        assert given.allow_websocket_origin == ("a:1", "b:2")
        assert settings(allow_websocket_origin="a:1").allow_websocket_origin == ("a:1",)

    def test_what_no_option_stands_for(self) -> None:
        """Objects of the program go through as they are."""
        provider, patterns = object(), [("/x", object)]
        given = settings(auth_provider=provider, extra_patterns=patterns, absolute_url="http://h/")
        assert given.auth_provider is provider
        assert given.extra_patterns == tuple(patterns)
        assert given.absolute_url == "http://h/"

    def test_tls_with_its_password(self, tmp_path: Path) -> None:
        """The password is a keyword here; the command line has only the environment for it."""
        certificate = tmp_path / "cert.pem"
        certificate.touch()
        given = settings(ssl_certfile=certificate, ssl_password="secret")
        assert given.tls == Tls(str(certificate), None, "secret")

    def test_secrets_for_cookies_may_be_several(self) -> None:
        """Tornado takes a dictionary by version, and bytes; a plain text is an option of ours."""
        assert settings(cookie_secret={1: "a"}, key_version=1).tornado_settings["cookie_secret"] == {1: "a"}
        assert settings(cookie_secret="a").cookie_secret == "a"

    def test_what_has_no_effect_in_one_process_is_told(self) -> None:
        """A program may be run with one process here and with four there."""
        assert plan(drain_delay=1, spread_viewers=5).idle == ("drain_delay", "spread_viewers")
        assert plan(head_timeout=1, num_procs=2).idle == ()
        assert set(OF_THE_NODE) <= {option.name for option in OPTIONS}


class TestRefusals:
    """What cannot be."""

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"port": 70_000}, "port=70000: must be 65535 or less"),
            ({"port": "http"}, "port=http: not a whole number"),
            ({"keep_alive_milliseconds": -1}, "keep_alive_milliseconds=-1: must be 0 or more"),
            ({"xsrf_cookies": "perhaps"}, "xsrf_cookies=perhaps: neither yes nor no"),
            ({"use_index": "no"}, "use_index='no': neither True nor False"),
            ({"lease": float("nan")}, "lease=nan: must be 1 or more"),
            ({"ssl_certfile": "/nowhere"}, "ssl_certfile: there is no file /nowhere"),
            ({"include_headers": ["a"], "exclude_headers": ["b"]}, "include_headers and exclude_headers contradict"),
            ({"unix_socket": "/s", "port": 1}, "port and unix_socket contradict"),
            ({"redis_url": "http://x"}, "redis_url: "),
            ({"sign_sessions": True}, "signed session ids need a key"),
            ({"durability": "ack"}, "durability needs a redis_url"),
            ({"num_procs": 2, "listen": False}, "listen=False and num_procs"),
            ({"session_urls": True, "generate_session_ids": False}, "session_urls needs a server that makes"),
        ],
        ids=lambda part: "-".join(part) if isinstance(part, dict) else "",
    )
    def test_complaints_name_the_keyword(self, given: dict[str, Any], text: str) -> None:
        """As the program spelt it, not as the command line would."""
        with pytest.raises(ConfigurationError) as refused:
            plan(**given)
        assert text in str(refused.value)
        assert isinstance(refused.value, ValueError)
        assert "--" not in str(refused.value)

    def test_a_loop_is_for_one_process(self) -> None:
        """The error is the one that Bokeh raises; none, for 0, means one for each core."""
        with pytest.raises(RuntimeError, match="num_procs and io_loop"):
            plan_of({"num_procs": 2}, None, on_loop=True)

    def test_tls_of_a_node_is_the_gateways(self) -> None:
        """`ssl_options` of Tornado's server would be for connections that it does not accept."""
        with pytest.raises(ConfigurationError, match="ssl_certfile"):
            plan_of({"num_procs": 2}, {"ssl_options": object()}, on_loop=False)

    def test_durability_with_redis(self) -> None:
        """Is the command line's: who names a Redis wants to lose nothing."""
        assert settings(redis_url="redis://host").durability is Durability.ASYNC
