"""From what the user said to one `ServePlan`, refusing what contradicts itself or names something that is not there.

This runs in the process that becomes the supervisor, before anything is bound or forked. It looks at the files that
options name and changes nothing, so that every rule can be tested without a server.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

from aperture.bus.names import is_namespace
from aperture.bus.redis_options import BusOptions
from aperture.config.admin_token import admin_token
from aperture.config.converters import existing_file
from aperture.config.options import BY_NAME, OPTIONS, serve_parser
from aperture.config.settings import DASHBOARD_ROUTE, DEFAULT_PORT, Durability, SessionIds, Settings, Tls
from aperture.config.sources import Sources, as_bool
from aperture.errors import ConfigurationError

__all__ = ["DERIVED", "ServePlan", "parse", "parser", "settings_of"]

_OF_A_SHARED_REDIS = ("redis_password", "redis_start", "redis_ca", "redis_cert", "redis_key", "redis_namespace")
"""Options that say something only beside a URL."""


@dataclass(frozen=True, slots=True)
class ServePlan:
    """The command line of one `aperture serve`, checked.

    Args:
        settings: the options of the node.
        files: the apps, as paths that exist; patterns are expanded.
        app_arguments: what the apps see as `sys.argv[1:]`.
        show: whether browsers are to be opened.
        watched: with `--dev`, the files to watch beside the app's own.
        log_format: as `aperture.log.configure` takes it.
        log_file: where to log to, or None for standard error.
        config_file: YAML settings for Bokeh itself, which are still to be loaded.
    """

    settings: Settings
    files: tuple[str, ...]
    app_arguments: tuple[str, ...]
    show: bool
    watched: tuple[str, ...]
    log_format: str
    log_file: str | None
    config_file: str | None


def parser() -> argparse.ArgumentParser:
    """The parser of `aperture serve` alone."""
    return serve_parser(argparse.ArgumentParser(prog="aperture serve"))


def parse(arguments: Sequence[str] | argparse.Namespace, environment: Mapping[str, str]) -> ServePlan:
    """The plan that a command line and an environment describe.

    Args:
        arguments: what follows `aperture serve`, parsed already or not.
        environment: usually `os.environ`.

    Raises:
        ConfigurationError: the options contradict each other or name something that is not there.
        SystemExit: argparse does not understand the command line.
    """
    given = vars(arguments if isinstance(arguments, argparse.Namespace) else parser().parse_args(arguments))
    sources = Sources(given, environment)
    values = _values(sources)
    files = _app_files(given["files"], expand=values["glob"])
    _refuse_contradictions(values, sources, files)
    return ServePlan(
        settings=_settings(values, sources),
        files=files,
        app_arguments=tuple(values["args"] or ()),
        show=values["show"],
        watched=_existing_files("--dev", values["dev"]),
        log_format=values["log_format"],
        log_file=values["log_file"],
        config_file=sources.config_file,
    )


def settings_of(sources: Sources) -> Settings:
    """The settings alone, for a server whose apps are no files.

    Raises:
        ConfigurationError: the options contradict each other or name something that is not there.
    """
    values = _values(sources)
    _refuse_contradictions(values, sources, ())
    return _settings(values, sources)


def _values(sources: Sources) -> dict[str, Any]:
    return {option.name: sources.value(option) for option in OPTIONS}


def _app_files(named: Sequence[str], *, expand: bool) -> tuple[str, ...]:
    files: list[str] = []
    for name in named:
        matches = sorted(glob(name)) if expand else [name]
        if not matches:
            raise ConfigurationError(f"--glob: nothing matches {name}")
        files.extend(match for match in matches if match not in files)
    for file in files:
        _refuse_no_app(file)
    return tuple(files)


def _refuse_no_app(file: str) -> None:
    path = Path(file).expanduser()
    if not path.exists():
        raise ConfigurationError(f"{file} does not exist")
    if not path.is_dir() and path.suffix not in (".py", ".ipynb", ".md"):
        raise ConfigurationError(
            f"{file} is not an app: a .py script, an .ipynb notebook, a .md file for Panel, or a folder with a main.py"
        )
    if path.is_dir() and not any((path / main).is_file() for main in ("main.py", "main.ipynb")):
        raise ConfigurationError(f"{file} is not an app: the folder has neither a main.py nor a main.ipynb")


def _refuse_contradictions(values: Mapping[str, Any], sources: Sources, files: Sequence[str]) -> None:
    for kind in ("headers", "cookies"):
        if values[f"include_{kind}"] and values[f"exclude_{kind}"]:
            raise ConfigurationError(f"--include-{kind} and --exclude-{kind} contradict each other: give one of them")
    if values["session_urls"] and values["session_ids"] == SessionIds.EXTERNAL_SIGNED.value:
        raise ConfigurationError(
            "--session-urls and --session-ids external-signed contradict each other: the first has this server make "
            "session ids, with the second another program makes them all"
        )
    if values["user_header"] and values["auth_module"]:
        raise ConfigurationError("--user-header and --auth-module contradict each other: give one of them")
    if values["unix_socket"] is not None:
        _refuse_network_options(values, sources)
    if values["ssl_keyfile"] is not None and values["ssl_certfile"] is None:
        raise ConfigurationError("--ssl-keyfile needs --ssl-certfile: a key alone would leave the server without TLS")
    if values["redis_key"] is not None and values["redis_cert"] is None:
        raise ConfigurationError("--redis-key needs --redis-cert: a key alone shows Redis nothing")
    _refuse_bad_bus(values)
    if values["admin"]:
        _refuse_dashboard(values, files)
    if values["dev"] is not None and len(files) != 1:
        raise ConfigurationError(f"--dev works with exactly one app, and {len(files)} were given")


def _refuse_dashboard(values: Mapping[str, Any], files: Sequence[str]) -> None:
    if values["disable_metrics"]:
        raise ConfigurationError("--admin shows what --disable-metrics leaves out: give one of them")
    for file in files:
        path = Path(file)
        if f"/{path.name if path.is_dir() else path.stem}" == DASHBOARD_ROUTE:
            raise ConfigurationError(f"--admin serves its dashboard at {DASHBOARD_ROUTE}, where {file} is: rename it")


def _refuse_bad_bus(values: Mapping[str, Any]) -> None:
    """A URL that is none is refused here, before anything is forked; and so is one that was forgotten.

    A URL that comes from a Secret may be empty, which is as if there were none: nodes that were to share a Redis would
    each start as a server of its own, ready and wrong.
    """
    if not is_namespace(values["redis_namespace"]):
        raise ConfigurationError("--redis-namespace takes letters, digits, dots, dashes and underscores, 64 at most")
    if values["redis_url"]:
        try:
            BusOptions(values["redis_url"])
        except ConfigurationError as problem:
            raise ConfigurationError(f"--redis-url: {problem}") from None
        return
    for option in map(BY_NAME.__getitem__, _OF_A_SHARED_REDIS):
        if values[option.name] and values[option.name] != option.default:
            raise ConfigurationError(
                f"{option.flag} is for a Redis that nodes share, and no --redis-url names one: this node would be alone"
            )


def _refuse_network_options(values: Mapping[str, Any], sources: Sources) -> None:
    if sources.stated(BY_NAME["port"]) not in (None, DEFAULT_PORT):
        raise ConfigurationError("--port and --unix-socket contradict each other: give one of them")
    for name in ("address", "ssl_certfile", "ssl_keyfile"):
        if values[name] is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigurationError(f"{flag} and --unix-socket contradict each other: give one of them")


def _settings(values: Mapping[str, Any], sources: Sources) -> Settings:
    plain = {option.fills: option.convert(option.flag, values[option.name]) for option in OPTIONS if option.fills}
    derived = {name: derive(values, sources) for name, derive in DERIVED.items()}
    return Settings(**plain, **derived)


def _durability(values: Mapping[str, Any], _: Sources) -> Durability:
    """Who names a Redis wants to lose no session with a worker; the node's own Redis ends with the node."""
    if values["durability"]:
        return Durability(values["durability"])
    return Durability.ASYNC if values["redis_url"] else Durability.NONE


def _session_ids(values: Mapping[str, Any], sources: Sources) -> SessionIds:
    mode = SessionIds(values["session_ids"])
    sign = sources.bokeh("sign_sessions")
    said = sources.stated(BY_NAME["session_ids"])
    if said is None and sign is not None:
        try:
            mode = SessionIds.SIGNED if as_bool(sign) else SessionIds.UNSIGNED
        except ValueError as problem:
            raise ConfigurationError(f"BOKEH_SIGN_SESSIONS={sign}: {problem}") from None
    if mode.signed and _secret_key(values, sources) is None:
        raise ConfigurationError(
            "signed session ids need a key in BOKEH_SECRET_KEY, the same on every node; `bokeh secret` makes one"
        )
    return mode


def _secret_key(_: Mapping[str, Any], sources: Sources) -> bytes | None:
    key = sources.bokeh("secret_key")
    if not key:
        return None
    return key if isinstance(key, bytes) else str(key).encode()


def _tls(values: Mapping[str, Any], sources: Sources) -> Tls | None:
    certfile = existing_file("--ssl-certfile", values["ssl_certfile"])
    if certfile is None:
        return None
    return Tls(certfile, existing_file("--ssl-keyfile", values["ssl_keyfile"]), sources.bokeh("ssl_password"))


def _origins(values: Mapping[str, Any], sources: Sources) -> tuple[str, ...] | None:
    said = sources.stated(BY_NAME["allow_websocket_origin"])
    if said is not None:
        return tuple(said)
    # Behind a unix socket there is no port to be on, and the proxy in front decides who may connect.
    return () if values["unix_socket"] is not None else None


def _admin_port_stated(_: Mapping[str, Any], sources: Sources) -> bool:
    return sources.stated(BY_NAME["admin_port"]) is not None


def _admin_token(values: Mapping[str, Any], _: Sources) -> str | None:
    if values["admin_token"] and values["admin_token_file"]:
        raise ConfigurationError("--admin-token and --admin-token-file contradict each other: give one of them")
    return admin_token(values["admin_token"], values["admin_token_file"])


def _existing_files(flag: str, paths: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(filter(None, map(partial(existing_file, flag), paths or ())))


def _num_procs(values: Mapping[str, Any], _: Sources) -> int:
    return 1 if values["dev"] is not None else values["num_procs"] or _cores()


def _cores() -> int:
    # What this process may use, which in a container is often less than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


DERIVED: Mapping[str, Callable[[Mapping[str, Any], Sources], Any]] = {
    "admin_port_stated": _admin_port_stated,
    "admin_token": _admin_token,
    "allow_websocket_origin": _origins,
    "durability": _durability,
    "num_procs": _num_procs,
    "secret_key": _secret_key,
    "session_ids": _session_ids,
    "tls": _tls,
}
"""Fields of `Settings` that several options, or Bokeh's own settings, decide together."""
