"""The command `aperture`. With `aperture.gateway.embed`, the only place that imports both gateway and worker.

It reads the plan, loads the apps, and passes them to `aperture.gateway.node`, whose supervisor forks. Nothing here
starts a thread or an event loop. Imports are inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import aperture
from aperture.config.admin_token import admin_token
from aperture.config.options import serve_parser
from aperture.config.settings import DASHBOARD_ROUTE, Settings
from aperture.doctor.command import doctor, doctor_parser
from aperture.errors import AppLoadError, ConfigurationError, ExitCode
from aperture.gateway.admin.drain import drain, drain_parser
from aperture.gateway.node import NodeSockets, make_supervisor
from aperture.gateway.supervise.browse import open_pages
from aperture.gateway.supervise.notify import notify_ready
from aperture.log_sink import StreamSink
from aperture.paths import checked_route, quoted
from aperture.version import __version__

if TYPE_CHECKING:
    from bokeh.application.application import Application

    from aperture.config.plan import ServePlan

__all__ = ["app_urls", "load_applications", "main", "run"]

log = logging.getLogger(__name__)

_BOKEH_COMMANDS = ("build", "html", "info", "init", "json", "sampledata", "secret", "static")
_DRAIN = "Replace the workers of a node on this machine one by one; their sessions go on in others."
_DOCTOR = "Walk to a server through whatever proxies stand before it; say what is wrong, and how to mend it."
INTERRUPTED = 128 + signal.SIGINT
"""As shells report SIGINT. A server stopped so has done its work and exits 0; a `doctor` stopped so has no result."""

PROCESS_ONE = 1
"""The process id of a container's first process, for which the kernel has other rules about signals and orphans."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows `aperture`; the process's own by default.

    Returns:
        The exit code of the process, one of `ExitCode` or argparse's 2.
    """
    if sys.platform == "win32":
        _complain("Windows has neither fork nor socket hand-over; use `bokeh serve` there, or WSL")
        return ExitCode.USAGE
    if os.getpid() == PROCESS_ONE:
        # The kernel drops signals that process 1 has no handler for; the supervisor sets its own once apps are loaded.
        signal.signal(signal.SIGTERM, _leave)
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in _BOKEH_COMMANDS:
        _complain(f"aperture serves apps and does nothing else: use `bokeh {words[0]}`")
        return ExitCode.USAGE
    try:
        if words and words[0] == "panel":
            return _panel(words[1:])
        given = _command_parser().parse_args(words)
        if words[0] == "doctor":
            return doctor(given)
        if words[0] == "drain":
            token = given.admin_token or os.environ.get("APERTURE_ADMIN_TOKEN")
            file = given.admin_token_file or (None if token else os.environ.get("APERTURE_ADMIN_TOKEN_FILE"))
            return drain(given.admin_address, given.admin_port, admin_token(token, file))
        from aperture.config.plan import parse

        return run(parse(given, os.environ))
    except AppLoadError as problem:
        _complain(str(problem))
        return ExitCode.APP_BROKEN
    except ConfigurationError as problem:
        _complain(str(problem))
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.OK if words[0] in ("serve", "panel") else INTERRUPTED


def run(plan: ServePlan) -> int:
    """Run the plan until a signal ends it; with `--dev`, start over when a file changes.

    Returns:
        The exit code of the process.

    Raises:
        ConfigurationError: the plan cannot be carried out; with `--dev` a broken app does not raise.
    """
    _set_up_logging(plan)
    if plan.config_file is not None:
        _load_bokeh_config(plan.config_file)
    return _develop(plan) if plan.settings.dev else _serve(plan)


def _panel(words: Sequence[str]) -> int:
    """`aperture panel`. The command line is Panel's, so that Panel must be there to read it."""
    from aperture.config.plan import parse
    from aperture.worker.panel.adapter import EXTRA, is_installed

    if not is_installed():
        raise ConfigurationError(f"`aperture panel` needs Panel: {EXTRA}")
    from aperture.worker.panel.serve_command import prepare, read

    args, given = read(words)
    plan = parse(given, os.environ)
    _set_up_logging(plan)
    panel = prepare(args)
    settings = dataclasses.replace(plan.settings, **panel.settings)
    return _run_node(dataclasses.replace(plan, settings=settings), panel.applications, panel.load)


def load_applications(files: Sequence[str], arguments: Sequence[str]) -> dict[str, Application]:
    """The apps by their routes, compiled and not yet run; without files one empty app at `/`.

    Each is built by Panel's means or by Bokeh's, as its files say and not as what is imported: so all workers that ever
    take part in a node have the same.

    Raises:
        AppLoadError: an app cannot be compiled.
        ConfigurationError: the file is no app, its name is not plain text, or two apps have the same route.
    """
    from bokeh.application import Application

    from aperture.apps import route_of

    if not files:
        return {"/": Application()}
    applications: dict[str, Application] = {}
    for file in files:
        try:
            application = _built(file, list(arguments))
        except RuntimeError as problem:
            raise AppLoadError(file, str(problem)) from problem
        except (OSError, ValueError) as problem:
            raise ConfigurationError(str(problem)) from problem
        route = checked_route(route_of(file))
        if route in applications:
            raise ConfigurationError(f"two apps would be served at {route}; rename one of them")
        applications[route] = application
    return applications


def _built(file: str, arguments: list[str]) -> Application:
    from aperture import apps
    from aperture.imports import written_with_panel

    if not written_with_panel(file):
        return apps.built(file, arguments)
    from aperture.worker.panel import building

    return building.built(file, arguments)


def app_urls(settings: Settings, routes: Sequence[str]) -> list[str]:
    """The URL of each app, in the order of the routes; empty for a unix socket, which has no URL."""
    if settings.unix_socket is not None:
        return []
    scheme = "http" if settings.tls is None else "https"
    origin = f"{scheme}://{_url_host(settings.address or 'localhost')}:{settings.port}"
    return [f"{origin}{settings.prefix}{quoted(route)}" for route in sorted(routes)]


def _command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aperture", description=aperture.__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="serve|panel|drain|doctor")
    commands.add_parser("panel", help="serve Panel apps, with the options of `panel serve`", add_help=False)
    serve_parser(commands.add_parser("serve", help="serve apps", description="Serve Bokeh apps from forked workers."))
    doctor_parser(commands.add_parser("doctor", help="say what is wrong with a server", description=_DOCTOR))
    drain_parser(commands.add_parser("drain", help="replace a node's workers one by one", description=_DRAIN))
    return parser


def _serve(plan: ServePlan, poll: Callable[[], bool] | None = None) -> int:
    """Load, bind, import, fork. Runs in the process that becomes the supervisor."""
    load = partial(load_applications, plan.files, plan.app_arguments)
    applications = load() if _fit_to_load(plan) else None
    plan = dataclasses.replace(plan, settings=_with_auth(plan.settings))
    return _run_node(plan, applications, load, poll)


def _run_node(
    plan: ServePlan,
    applications: Mapping[str, Application] | None,
    load: Callable[[], Mapping[str, Application]],
    poll: Callable[[], bool] | None = None,
) -> int:
    """Bind, import, fork; with the apps, or None where each worker loads them."""
    from aperture.apps import route_of

    routes = list(applications or map(route_of, plan.files))
    settings = plan.settings
    try:
        sockets = NodeSockets.open(settings)
    except OSError as problem:
        _complain(_bind_complaint(settings, problem))
        return ExitCode.CANNOT_BIND
    from aperture.worker.main import worker_main

    run_worker = partial(worker_main, applications=applications, load=load)

    def announce(settings: Settings, admin_port: int | None) -> None:
        _announce(plan, settings, sorted(routes), admin_port)
        notify_ready(os.environ.get("NOTIFY_SOCKET", ""))

    return make_supervisor(sockets, run_worker, files=plan.files, on_ready=announce, poll=poll).run()


def _fit_to_load(plan: ServePlan) -> bool:
    """Whether the supervisor may load the apps: threads that their hooks start would not survive a fork."""
    from aperture.apps import runs_when_built
    from aperture.gateway.supervise.trial import first_unfit

    def loads() -> Iterator[str]:
        for file in plan.files:
            if runs_when_built(file):
                yield file
                with suppress(AppLoadError, ConfigurationError):  # reported by the real load that follows
                    load_applications([file], plan.app_arguments)

    found = first_unfit(loads()) if any(map(runs_when_built, plan.files)) else None
    if found is not None:
        log.info("the apps are loaded in each worker: %s %s when it is loaded", found.step, found.reason)
    return found is None


def _with_auth(settings: Settings) -> Settings:
    """The settings with the auth module loaded, if that is safe in the supervisor; otherwise each worker loads it."""
    from aperture.gateway.supervise.trial import first_unfit
    from aperture.worker.http.auth import with_auth_loaded

    def loads() -> Iterator[str]:
        yield str(settings.auth_module)
        with suppress(ConfigurationError):
            with_auth_loaded(settings)

    found = None if settings.auth_module is None else first_unfit(loads())
    if found is None:
        return with_auth_loaded(settings)
    log.warning("the auth module is loaded in each worker, where a key that it makes differs: it %s", found.reason)
    return settings


def _develop(plan: ServePlan) -> int:
    """Serve, and start over once a file has changed; with a broken app, wait for the next change."""
    from aperture.gateway.supervise.reload import Changes, execute_again

    log.info("Running in --dev mode with one worker")
    auth = plan.settings.auth_module
    changes = Changes(plan.files[0], plan.watched if auth is None else (*plan.watched, auth))
    try:
        code = _serve(plan, changes)
    except AppLoadError as problem:
        _complain(str(problem))
        code = ExitCode.APP_BROKEN
    if code == ExitCode.APP_BROKEN:
        changes.wait()
    if changes.seen:
        execute_again()
    return code


def _set_up_logging(plan: ServePlan) -> None:
    from aperture.log import configure

    try:
        configure(plan.settings.log_level, plan.log_format, plan.log_file)
    except OSError as problem:
        raise ConfigurationError(f"--log-file {plan.log_file}: {problem.strerror}") from problem
    except ValueError as problem:
        raise ConfigurationError(f"--log-format {plan.log_format}: {problem}") from problem


def _load_bokeh_config(path: str) -> None:
    # Bokeh itself reads the file again while it renders pages, for the settings that are not options of ours.
    from bokeh.settings import settings as bokeh_settings

    log.info("Using the settings of Bokeh in %s", path)
    bokeh_settings.load_config(path)


def _bind_complaint(settings: Settings, problem: OSError) -> str:
    reason = problem.strerror or str(problem)
    if problem.errno == errno.EADDRINUSE and settings.admin_port and f":{settings.admin_port})" in reason:
        return f"cannot listen: {reason}; --admin-port gives the admin endpoints another port, or none"
    return f"cannot listen: {reason}"


def _announce(plan: ServePlan, settings: Settings, routes: Sequence[str], admin_port: int | None) -> None:
    """Called in the supervisor once every worker serves."""
    urls = app_urls(settings, routes)
    lines = [f"Bokeh app running at: {url}" for url in urls]
    _print_for_programs(lines)
    for url, line in zip(urls, lines, strict=True):
        log.info("%s", line, extra={"url": url})
    if settings.unix_socket is not None:
        log.info("Aperture apps %s running at unix socket: %s", ", ".join(routes), settings.unix_socket)
    if admin_port is not None:
        log.info("Admin endpoints at: http://%s:%d", _url_host(settings.admin_address), admin_port)
    if settings.dashboard:
        for url in app_urls(settings, [DASHBOARD_ROUTE]):
            log.info("Dashboard at: %s", url)
    log.info("Supervisor is process %d", os.getpid())
    if plan.show:
        _show(urls)


def _print_for_programs(lines: Sequence[str]) -> None:
    """Write stock Bokeh's lines to standard output, where programs look for the port that `--port 0` was given.

    Programs start a server with its output in a pipe, where our log is JSON. On a terminal the log shows them.
    """
    try:
        descriptor = sys.stdout.fileno()
        if not os.isatty(descriptor):
            # Non-blocking, as the log: a reader that does not read must not block the supervisor.
            StreamSink(descriptor).write("".join(f"{line}\n" for line in lines).encode())
    except (AttributeError, OSError, ValueError):
        pass  # standard output is None, closed, or not a file: there is no reader


def _show(urls: Sequence[str]) -> None:
    from aperture.gateway.supervise.reload import is_reload

    if urls and not is_reload():
        open_pages(urls)


def _url_host(address: str) -> str:
    if address == "*":
        return "localhost"
    return f"[{address}]" if ":" in address else address


def _leave(number: int, frame: object) -> None:  # noqa: ARG001 - the signature of handlers
    raise SystemExit(ExitCode.OK)


def _complain(text: str) -> None:
    print(f"aperture: error: {text}", file=sys.stderr)
