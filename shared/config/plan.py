"""From what the user said to one `ServePlan`, refusing what contradicts itself or names something that is not there.

This runs in the process that becomes the supervisor, before anything is bound or forked. It looks at the files that
options name and changes nothing, so that every rule can be tested without a server.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aperture.bus.names import is_namespace
from aperture.bus.redis_options import BusOptions
from aperture.config.admin_token import admin_token
from aperture.config.options import BIGGEST_PORT, BY_NAME, LOG_LEVELS, OPTIONS, serve_parser
from aperture.config.settings import DASHBOARD_ROUTE, DEFAULT_PORT, Durability, SessionIds, Settings, Tls
from aperture.config.sources import Sources, as_bool
from aperture.errors import ConfigurationError
from aperture.paths import checked_route, quoted

__all__ = ["ServePlan", "parse", "parser", "settings_of"]

_MILLISECONDS = 1000.0

_OF_A_SHARED_REDIS = ("redis_password", "redis_start", "redis_ca", "redis_cert", "redis_key", "redis_namespace")
"""Options that say something only beside a URL."""


@dataclass(frozen=True, slots=True)
class ServePlan:
    """Everything that one `aperture serve` was told.

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
    if not path.is_dir() and path.suffix not in (".py", ".ipynb"):
        raise ConfigurationError(f"{file} is not an app: a .py script, an .ipynb notebook, or a folder with a main.py")
    if path.is_dir() and not any((path / main).is_file() for main in ("main.py", "main.ipynb")):
        raise ConfigurationError(f"{file} is not an app: the folder has neither a main.py nor a main.ipynb")


def _refuse_contradictions(values: Mapping[str, Any], sources: Sources, files: Sequence[str]) -> None:
    for kind in ("headers", "cookies"):
        if values[f"include_{kind}"] and values[f"exclude_{kind}"]:
            raise ConfigurationError(f"--include-{kind} and --exclude-{kind} contradict each other: give one of them")
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
    session_ids, secret_key = _signing(values, sources)
    dev = values["dev"] is not None
    return Settings(
        port=values["port"],
        address=values["address"] or None,
        unix_socket=values["unix_socket"],
        tls=_tls(values, sources),
        admin_port=_admin_port(values["admin_port"]),
        admin_port_stated=sources.stated(BY_NAME["admin_port"]) is not None,
        admin_address=values["admin_address"],
        dashboard=values["admin"],
        admin_token=_admin_token(values),
        num_procs=1 if dev else values["num_procs"] or _cores(),
        drain_delay=values["drain_delay"],
        shutdown_grace=values["shutdown_grace"],
        preload=not values["no_preload"],
        dev=dev,
        prefix=_normal_prefix(values["prefix"]),
        index=_existing_file("--index", values["index"]),
        use_index=not values["disable_index"],
        redirect_root=not values["disable_index_redirect"],
        ico_path=_icon(values["ico_path"]),
        use_xheaders=values["use_xheaders"],
        allow_websocket_origin=_origins(values, sources),
        session_ids=session_ids,
        secret_key=secret_key,
        session_token_expiration=values["session_token_expiration"],
        auth_module=_existing_file("--auth-module", values["auth_module"]),
        xsrf_cookies=values["enable_xsrf_cookies"],
        cookie_secret=values["cookie_secret"],
        include_headers=_some(values["include_headers"]),
        exclude_headers=_some(values["exclude_headers"]),
        include_cookies=_some(values["include_cookies"]),
        exclude_cookies=_some(values["exclude_cookies"]),
        keep_alive=values["keep_alive"] / _MILLISECONDS,
        check_unused_sessions=values["check_unused_sessions"] / _MILLISECONDS,
        unused_session_lifetime=values["unused_session_lifetime"] / _MILLISECONDS,
        websocket_max_message_size=values["websocket_max_message_size"],
        websocket_compression_level=values["websocket_compression_level"],
        websocket_compression_mem_level=values["websocket_compression_mem_level"],
        max_head_size=values["max_head_size"],
        head_timeout=values["head_timeout"],
        max_pending_connections=values["max_pending_connections"],
        outbox_limit=values["outbox_limit"],
        redis_url=values["redis_url"] or None,
        redis_namespace=values["redis_namespace"],
        redis_password=values["redis_password"] or None,
        redis_ca=_existing_file("--redis-ca", values["redis_ca"]),
        redis_cert=_existing_file("--redis-cert", values["redis_cert"]),
        redis_key=_existing_file("--redis-key", values["redis_key"]),
        redis_wait=values["redis_start"] == "wait",
        lease=values["lease"],
        spread_viewers=values["spread_viewers"],
        max_worker_memory=values["max_worker_memory"],
        max_worker_age=values["max_worker_age"],
        durability=_durability(values),
        max_snapshot_bytes=values["max_snapshot_bytes"],
        lean_models=not values["stock_models"],
        metrics=not values["disable_metrics"],
        log_level=_log_level(values["log_level"]),
        stats_log_frequency=values["stats_log_frequency"] / _MILLISECONDS,
        mem_log_frequency=values["mem_log_frequency"] / _MILLISECONDS,
    )


def _durability(values: Mapping[str, Any]) -> Durability:
    """Who names a Redis wants to lose no session with a worker; the node's own Redis ends with the node."""
    if values["durability"]:
        return Durability(values["durability"])
    return Durability.ASYNC if values["redis_url"] else Durability.NONE


def _signing(values: Mapping[str, Any], sources: Sources) -> tuple[SessionIds, bytes | None]:
    key = sources.bokeh("secret_key")
    mode = SessionIds(values["session_ids"])
    sign = sources.bokeh("sign_sessions")
    said = sources.stated(BY_NAME["session_ids"])
    if said is None and sign is not None:
        try:
            mode = SessionIds.SIGNED if as_bool(sign) else SessionIds.UNSIGNED
        except ValueError as problem:
            raise ConfigurationError(f"BOKEH_SIGN_SESSIONS={sign}: {problem}") from None
    if mode.signed and not key:
        raise ConfigurationError(
            "signed session ids need a key in BOKEH_SECRET_KEY, the same on every node; `bokeh secret` makes one"
        )
    if not key:
        return mode, None
    return mode, key if isinstance(key, bytes) else str(key).encode()


def _tls(values: Mapping[str, Any], sources: Sources) -> Tls | None:
    certfile = _existing_file("--ssl-certfile", values["ssl_certfile"])
    if certfile is None:
        return None
    return Tls(certfile, _existing_file("--ssl-keyfile", values["ssl_keyfile"]), sources.bokeh("ssl_password"))


def _origins(values: Mapping[str, Any], sources: Sources) -> tuple[str, ...] | None:
    said = sources.stated(BY_NAME["allow_websocket_origin"])
    if said is not None:
        return tuple(said)
    # Behind a unix socket there is no port to be on, and the proxy in front decides who may connect.
    return () if values["unix_socket"] is not None else None


def _admin_port(text: str) -> int | None:
    if text.lower() == "none":
        return None
    if not text.isdecimal() or int(text) > BIGGEST_PORT:
        raise ConfigurationError(f"--admin-port={text}: neither a port nor 'none'")
    return int(text)


def _admin_token(values: Mapping[str, Any]) -> str | None:
    if values["admin_token"] and values["admin_token_file"]:
        raise ConfigurationError("--admin-token and --admin-token-file contradict each other: give one of them")
    return admin_token(values["admin_token"], values["admin_token_file"])


def _icon(value: str) -> str | None:
    from bokeh.settings import convert_ico_path

    try:
        path = convert_ico_path(value)
    except ValueError:
        raise ConfigurationError(f"--ico-path={value}: neither an .ico file nor 'none'") from None
    return None if path == "none" else _existing_file("--ico-path", path)


def _log_level(value: str) -> str:
    level = value.lower()
    # `--log-level None` is Bokeh's way to say that nothing was said.
    return level if level in LOG_LEVELS else "info"


def _normal_prefix(prefix: str | None) -> str:
    """As it stands in URLs; it may be given like that, or plain."""
    bare = quoted(checked_route(unquote(prefix or "").strip("/")))
    return f"/{bare}" if bare else ""


def _some(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values else None


def _existing_file(flag: str, path: str | None) -> str | None:
    """The absolute path, so that a worker may change its directory."""
    if path is None:
        return None
    found = Path(path).expanduser()
    if not found.is_file():
        raise ConfigurationError(f"{flag}: there is no file {path}")
    return str(found.absolute())


def _existing_files(flag: str, paths: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(filter(None, map(partial(_existing_file, flag), paths or ())))


def _cores() -> int:
    # What this process may use, which in a container is often less than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
