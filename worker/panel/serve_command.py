"""`aperture panel`: the command line of `panel serve`, carried out by Panel's own command until it makes a server.

Panel's `Serve` reads its options, sets `pn.config`, builds the apps, and makes the routes, logins and templates that
were asked for, before it asks for a `bokeh.server.server.Server`. Here it gets one that only takes note of what it is
given. Runs in the process that becomes the supervisor; what Panel has set by then, the workers inherit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from glob import glob
from types import ModuleType
from typing import Any

import bokeh.server.server
from bokeh.application import Application
from bokeh.command.util import build_single_handler_applications
from panel.command.serve import Serve
from panel.config import config
from panel.io.application import Application as PanelApplication
from panel.io.reload import record_modules
from panel.io.state import state

from aperture.config.options import BY_NAME, OPTIONS
from aperture.errors import AppLoadError, ConfigurationError
from aperture.worker.panel.adapter import install
from aperture.worker.panel.serving import with_panels_routes

__all__ = ["PanelServe", "panel_parser", "prepare", "read"]

_PANELS = frozenset({"admin", "dev", "ico_path", "index", "num_threads"})
"""Options that both have and that mean something else, or take other values, in Panel."""

_SEVERAL = 2
"""The number of processes that Panel is given: above one it leaves to each what is to run in the workers."""


@dataclass(frozen=True, slots=True)
class PanelServe:
    """What Panel's command has made of its options.

    Args:
        applications: by route, for the first workers.
        load: makes them again, for those that are started later.
        settings: fields of `aperture.config.settings.Settings`, in place of what our own options say.
    """

    applications: Mapping[str, Application]
    load: Callable[[], Mapping[str, Application]]
    settings: Mapping[str, Any]


def panel_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of `panel serve`, and those of `aperture serve` that are not Bokeh's and not Panel's."""
    Serve(parser=parser)
    known = {flag for action in parser._actions for flag in action.option_strings}
    ours = parser.add_argument_group("options of aperture")
    for option in OPTIONS:
        if option.added and option.flag not in known:
            ours.add_argument(option.flag, **option.argparse_arguments())
    return parser


def read(words: Sequence[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The command line twice: as Panel's command takes it, and only what was said of the options that we have.

    Args:
        words: what follows `aperture panel`.

    Raises:
        SystemExit: argparse does not understand it.
    """
    args = panel_parser(_parser()).parse_args(words)
    silent = panel_parser(_parser())
    for action in silent._actions:
        action.default = argparse.SUPPRESS
    said = vars(silent.parse_args(words))
    given = {name: value for name, value in said.items() if name in BY_NAME and name not in _PANELS}
    return args, argparse.Namespace(**given, files=args.files)


def prepare(args: argparse.Namespace) -> PanelServe:
    """Run Panel's command up to its server.

    Raises:
        AppLoadError: an app cannot be compiled.
        ConfigurationError: an option cannot be carried out.
        SystemExit: Panel or Bokeh says so on standard error.
    """
    install()
    argv = argparse.Namespace(**vars(args))
    argv.num_procs, argv.warm = _SEVERAL, False
    command = Serve(parser=_parser())
    with _taking_note() as taken:
        try:
            command.invoke(argv)
        except RuntimeError as problem:
            raise AppLoadError(" ".join(args.files), str(problem)) from problem
        except (ValueError, OSError, ImportError) as problem:
            raise ConfigurationError(str(problem)) from problem
    (server,) = taken
    if args.warm or config.autoreload:
        _have_warmed(command, server.applications)
    patterns, admin = _parted(server.keywords.get("extra_patterns", ()))
    load = partial(_load, command, args, admin)
    applications = {**server.applications, **admin}
    return PanelServe(applications, load, _settings(server.keywords, patterns, list(server.applications)))


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="aperture panel",
        description="Serve Panel apps from forked workers, as `panel serve` does from one process.",
    )


@dataclass
class _Server:
    """Stands in for `bokeh.server.server.Server`."""

    applications: Mapping[str, Application]
    keywords: dict[str, Any] = field(default_factory=dict)

    port = None
    """Without one Panel says nothing of addresses: the server does."""

    def run_until_shutdown(self) -> None:
        """No-op."""

    @property
    def io_loop(self) -> _Server:
        return self

    def add_callback(self, callback: Callable[[], None]) -> None:
        """No-op: what is to be shown, the node shows."""


@contextmanager
def _taking_note() -> Iterator[list[_Server]]:
    """A context in which making a server of Bokeh's, or of Panel's, only says which."""
    taken: list[_Server] = []

    def note(applications: Mapping[str, Application], **keywords: Any) -> _Server:
        taken.append(_Server(applications, keywords))
        return taken[-1]

    module: Any = bokeh.server.server
    before, module.Server = module.Server, note
    try:
        yield taken
    finally:
        module.Server = before


def _parted(patterns: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Application]]:
    """The routes, and by its own route the admin page, which Panel gives as routes of Bokeh's server."""
    routes = []
    admin: dict[str, Application] = {}
    for pattern in patterns:
        context = pattern[2].get("application_context") if len(pattern) > 2 else None
        if context is None:
            routes.append(pattern)
        else:
            admin[context.url] = PanelApplication(*context.application.handlers)
    return tuple(routes), admin


def _have_warmed(command: Serve, applications: Mapping[str, Application]) -> None:
    """Have each worker run each app once before it serves, behind the setup script: Panel's place for such things.

    With `--autoreload`, too: the modules that are imported then are those whose files are watched.
    """
    # Panel sets it only where there is a setup script.
    set_up = getattr(state, "_setup_file_callback", None)

    def warm() -> None:
        if set_up is not None:
            set_up()
        with record_modules(list(applications.values())) if config.autoreload else nullcontext():
            command.warm_applications(applications, False, error=False)

    state._setup_module = state._setup_module or ModuleType("panel_setup_module")
    state._setup_file_callback = warm


def _load(command: Serve, args: argparse.Namespace, admin: Mapping[str, Application]) -> dict[str, Application]:
    """The apps of the command line, as Panel's command builds them."""
    files = [found for name in args.files for found in (glob(name) if args.glob else [name])]
    try:
        applications = build_single_handler_applications(files, dict.fromkeys(files, args.args))
    except (RuntimeError, ValueError) as problem:
        raise AppLoadError(" ".join(files), str(problem)) from problem
    if not applications:
        applications["/"] = PanelApplication()
    return {**command.customize_applications(args, applications), **admin}


def _settings(keywords: Mapping[str, Any], patterns: tuple[Any, ...], routes: list[str]) -> dict[str, Any]:
    """The fields of `Settings` that Panel's command has decided."""
    provider = keywords["auth_provider"]
    chosen: dict[str, Any] = {
        "extra_patterns": patterns,
        "cookie_secret": keywords.get("cookie_secret"),
        "ico_path": str(keywords["ico_path"]),
    }
    if provider.get_user is not None or provider.get_user_async is not None:
        chosen |= {"auth_provider": provider, "auth_module": None}
    index = {name: keywords[name] for name in ("index", "use_index", "redirect_root") if name in keywords}
    chosen |= with_panels_routes({**chosen, **index}, routes)
    if config.autoreload:
        # What the supervisor has imported, no worker sees being imported.
        chosen |= {"num_procs": 1, "preload": False}
    return chosen
