"""From the keyword arguments of `Server` to `Settings`.

Two vocabularies meet here: the keywords of Bokeh's own Server, and the options of the command line with underscores.
Checks, units and defaults are those of the table of options; complaints name the keyword instead of the flag. The
environment says nothing to a program's server, but for what Bokeh's own reads there: the port, the key, whether ids are
signed, and the icon.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from aperture.config.converters import negated
from aperture.config.options import BOKEH_PREFIX, BY_NAME, OPTIONS, Kind
from aperture.config.plan import settings_of
from aperture.config.settings import Durability, SessionIds, Settings
from aperture.config.sources import Sources
from aperture.errors import ConfigurationError

__all__ = ["LogChoice", "ServerPlan", "plan_of", "with_bokehs_settings"]

BOKEH_NAMES = {option.keyword: option.name for option in OPTIONS if option.keyword}
"""What a `Server` calls options of the command line: Bokeh's names, and one of ours."""

REVERSED = frozenset(option.keyword for option in OPTIONS if option.keyword and option.convert is negated)
"""Switches that a `Server` has on where the command line has them off."""

BOKEHS_OWN = frozenset({"default_server_port", "secret_key", "sign_sessions", "ico_path"})
"""The settings of Bokeh that its Server reads where no keyword is given."""

IN_SETTINGS = (
    *("auth_module", "cookie_secret", "ico_path", "secret_key", "sign_sessions"),
    *("ssl_certfile", "ssl_keyfile", "ssl_password", "xsrf_cookies"),
)
"""Keywords that `Server.from_settings` of Bokeh takes from `bokeh.settings`, where they have these names, too."""

NOT_OPTIONS = frozenset(
    {
        *("absolute_url", "auth_provider", "extra_patterns", "generate_session_ids", "listen"),
        *("secret_key", "sign_sessions", "ssl_password"),
    }
)
"""Keywords that no option of the command line stands for."""

OF_FILES = {
    "args": "apps are handed over as objects, which have their arguments already",
    "dev": "use Tornado's `autoreload=True` in one process, or `aperture serve --dev`",
    "glob": "apps are handed over as objects, not as file names",
}
"""Options of the command line that have no meaning here, and why."""

OF_THE_NODE = tuple(option.name for option in OPTIONS if option.node_only)
"""Without effect in one process, which has no gateway and no supervisor."""

TORNADOS = (
    *("autoescape", "autoreload", "compiled_template_cache", "compress_response", "debug", "default_handler_args"),
    *("default_handler_class", "default_host", "key_version", "log_function", "login_url", "serve_traceback"),
    *("static_handler_args", "static_handler_class", "static_hash_cache", "static_path", "static_url_prefix"),
    *("template_loader", "template_path", "template_whitespace", "transforms", "ui_methods", "ui_modules"),
    *("websocket_ping_interval", "websocket_ping_timeout", "xsrf_cookie_kwargs", "xsrf_cookie_name"),
    "xsrf_cookie_version",
)
"""Settings of `tornado.web.Application`: near misses of ours that are none."""

LIKE_A_SLIP = 0.85
"""How like a keyword of ours another must be to be taken for a slip of the pen."""

_FLAG = re.compile(r"--[a-z]+(?:-[a-z]+)*")


@dataclass(frozen=True, slots=True)
class LogChoice:
    """What the program wants of the log; without one its own logging is left alone."""

    level: str
    format: str
    file: str | None


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """The keywords of one `Server`, checked, without its apps.

    Args:
        settings: of the server.
        listen: whether it opens a port of its own; otherwise a larger application has its routes.
        show: whether the apps are opened in a browser at the start.
        log: how to log, if anything was said about it.
        config_file: YAML settings for Bokeh itself, which are still to be loaded.
        idle: keywords that were given and have no effect in one process.
    """

    settings: Settings
    listen: bool = True
    show: bool = False
    log: LogChoice | None = None
    config_file: str | None = None
    idle: tuple[str, ...] = field(default=())


class _Given(Sources):
    """Keywords in place of the command line, and little of the environment.

    Args:
        options: values by the option's name.
        bokeh: values by their name in `bokeh.settings`.
    """

    def __init__(self, options: Mapping[str, Any], bokeh: Mapping[str, Any]) -> None:
        environment = {name: value for name, value in os.environ.items() if name.startswith(BOKEH_PREFIX)}
        super().__init__(options, environment)
        self._said = bokeh

    def bokeh(self, name: str) -> Any:
        if name in self._said:
            return self._said[name]
        return super().bokeh(name) if name in BOKEHS_OWN else None


def with_bokehs_settings(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords, with what `bokeh.settings` says about those not given: in files, variables or code."""
    from bokeh.settings import settings as bokeh_settings

    given = {name: value for name, value in keywords.items() if value is not None}
    settled = {name: getattr(bokeh_settings, name)() for name in IN_SETTINGS}
    if "auth_provider" in given:
        del settled["auth_module"]
    return {**settled, **given}


def plan_of(keywords: Mapping[str, Any], http_server_kwargs: Mapping[str, Any] | None, *, on_loop: bool) -> ServerPlan:
    """The plan that the arguments of a `Server` describe.

    Args:
        keywords: what was given by name, but for `io_loop` and `http_server_kwargs`.
        http_server_kwargs: for Tornado's HTTP server.
        on_loop: whether the caller has named the event loop to run on.

    Raises:
        ConfigurationError: a keyword's value cannot be, keywords contradict each other, or one is misspelt.
        RuntimeError: several processes were asked for on one event loop.
    """
    keywords = {name: value for name, value in keywords.items() if value is not None}
    spelling, options = _options(keywords)
    try:
        sources = _Given(options, {name: keywords[name] for name in _SAID_TO_BOKEH if name in keywords})
        settings = _completed(settings_of(sources), keywords, http_server_kwargs or {})
        log = _log_choice(sources)
    except ConfigurationError as problem:
        raise ConfigurationError(_in_keywords(str(problem), spelling)) from None
    if settings.num_procs > 1:
        _refuse_several_processes(settings, keywords, on_loop=on_loop)
    elif settings.durability is not Durability.NONE and settings.redis_url is None:
        raise ConfigurationError("durability needs a redis_url: one process starts no Redis of its own")
    return ServerPlan(
        settings=settings,
        listen=_yes_or_no("listen", keywords.get("listen", True)),
        show=bool(sources.value(BY_NAME["show"])),
        log=log,
        config_file=sources.config_file,
        idle=() if settings.num_procs > 1 else tuple(name for name in OF_THE_NODE if name in keywords),
    )


_SAID_TO_BOKEH = ("secret_key", "sign_sessions", "ssl_password")


def _options(keywords: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """How the caller spells each option, and the options' values."""
    spelling: dict[str, str] = {}
    options: dict[str, Any] = {"admin_port": "none"}
    for name, value in keywords.items():
        if name in OF_FILES:
            raise ConfigurationError(f"{name} belongs to the command line: {OF_FILES[name]}")
        option = BOKEH_NAMES.get(name, name)
        if option not in BY_NAME or (name == "cookie_secret" and not isinstance(value, str)):
            _refuse_slip(name)
            continue
        if option in spelling and option != "allow_websocket_origin":
            raise ConfigurationError(f"{name} and {spelling[option]} are one thing: give one of them")
        spelling[option] = name
        options[option] = _value(name, option, value, options.get(option))
    return spelling, options


def _value(name: str, option: str, value: Any, before: Any) -> Any:
    if name in REVERSED:
        return not _yes_or_no(name, value)
    if BY_NAME[option].kind not in (Kind.LIST, Kind.REPEATED):
        return os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        # A text is a sequence, too: of one-letter hosts.
        value = [value]
    return [*(before or ()), *map(str, value)] if isinstance(value, Sequence | set | frozenset) else value


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={value!r}: neither True nor False")
    return value


def _refuse_slip(name: str) -> None:
    known = [*BY_NAME, *BOKEH_NAMES, *NOT_OPTIONS]
    if name in known or name in TORNADOS:
        return
    meant = get_close_matches(name, [*known, *TORNADOS, "io_loop", "http_server_kwargs"], n=1, cutoff=LIKE_A_SLIP)
    if meant:
        raise ConfigurationError(f"{name} is no keyword of Server; did you mean {meant[0]}?")


def _completed(settings: Settings, keywords: Mapping[str, Any], http_server_kwargs: Mapping[str, Any]) -> Settings:
    """The settings with what the command line has no words for."""
    session_ids = settings.session_ids
    if not _yes_or_no("generate_session_ids", keywords.get("generate_session_ids", True)):
        session_ids = SessionIds.EXTERNAL_SIGNED if session_ids.signed else SessionIds.EXTERNAL_UNSIGNED
    if settings.session_urls and not session_ids.generated:
        raise ConfigurationError("session_urls needs a server that makes session ids (generate_session_ids=True)")
    tornados = {name: value for name, value in keywords.items() if _is_tornados(name, value)}
    # One process is the program's, and its Bokeh is patched only where it asks for that. Workers are the server's own.
    asked = "lean_models" in keywords or "stock_models" in keywords
    return dataclasses.replace(
        settings,
        lean_models=settings.lean_models and (asked or settings.num_procs > 1),
        session_ids=session_ids,
        absolute_url=keywords.get("absolute_url"),
        auth_provider=keywords.get("auth_provider"),
        extra_patterns=tuple(keywords.get("extra_patterns", ())),
        tornado_settings=tornados,
        http_server_kwargs=dict(http_server_kwargs),
    )


def _is_tornados(name: str, value: object) -> bool:
    if name == "cookie_secret":
        return not isinstance(value, str)  # bytes, or several by their version
    return not (name in BY_NAME or name in BOKEH_NAMES or name in NOT_OPTIONS)


def _log_choice(sources: Sources) -> LogChoice | None:
    names = ("log_level", "log_format", "log_file")
    if all(sources.stated(BY_NAME[name]) is None for name in names):
        return None
    level, template, file = (sources.value(BY_NAME[name]) for name in names)
    return LogChoice("info" if level.lower() == "none" else level.lower(), template, file)


def _refuse_several_processes(settings: Settings, keywords: Mapping[str, Any], *, on_loop: bool) -> None:
    if on_loop:
        raise RuntimeError(
            "num_procs and io_loop contradict each other: an event loop cannot be shared between processes. "
            "Give one of them, or run several servers that share a redis_url"
        )
    if not keywords.get("listen", True):
        raise ConfigurationError("listen=False and num_procs contradict each other: workers need connections")
    if "ssl_options" in settings.http_server_kwargs:
        raise ConfigurationError("with num_procs TLS ends in the gateway: give ssl_certfile instead of ssl_options")


def _in_keywords(text: str, spelling: Mapping[str, str]) -> str:
    def keyword(found: re.Match[str]) -> str:
        option = found.group().removeprefix("--").replace("-", "_")
        return spelling.get(option, option) if option in BY_NAME else found.group()

    return _FLAG.sub(keyword, text)
