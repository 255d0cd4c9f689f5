"""The table of options: one row each, source of the command line, the environment, the checks and `docs/options.md`.

Every option of `bokeh serve` 3.9 is here with its name, default and meaning, so that a user replaces `bokeh` by
`aperture` and nothing else; a test compares the two tables. What is ours is marked `added`. A row also names the field
of `Settings` that it fills, how its value becomes the field's, and what `Server` calls it: a new option is one
row here, and the field. How the sources of a value are merged is in `sources.py`; `plan.py` follows the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aperture.config.converters import (
    BIGGEST_PORT,
    LOG_LEVELS,
    Converter,
    admin_port,
    as_it_is,
    existing_file,
    icon,
    if_given,
    is_given,
    log_level,
    names,
    negated,
    prefix,
    seconds,
    waits,
)
from aperture.config.settings import DEFAULT_PORT

__all__ = ["BY_NAME", "LOG_LEVELS", "OPTIONS", "Kind", "Option", "serve_parser"]

DEFAULT_LOG_FORMAT = "%(asctime)s %(message)s"
ENVIRONMENT_PREFIX = "APERTURE_"
BOKEH_PREFIX = "BOKEH_"
A_DAY = 86_400
"""Timeouts beyond this are slips of the pen, and infinity is none that a timer takes."""


class Kind(Enum):
    """The shape of an option's value, on the command line and as text in the environment."""

    TEXT = "text"
    WHOLE = "whole number"
    NUMBER = "number"
    FLAG = "yes or no"
    LIST = "one or more values"
    REPEATED = "one value, as often as needed"
    FILES = "any number of files, perhaps none"
    REST = "everything that follows"


_ARGPARSE: dict[Kind, dict[str, Any]] = {
    Kind.TEXT: {"type": str},
    Kind.WHOLE: {"type": int},
    Kind.NUMBER: {"type": float},
    Kind.FLAG: {"action": "store_true"},
    Kind.LIST: {"nargs": "+"},
    Kind.REPEATED: {"action": "append"},
    Kind.FILES: {"nargs": "*"},
    Kind.REST: {"nargs": "..."},
}


_OF_THE_SAME_NAME = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `aperture serve`.

    Args:
        flag: as on the command line, with its dashes.
        kind: the shape of its value.
        help: what it does, in one sentence.
        default: the value of Bokeh's own table; None where Bokeh lets its server decide.
        implied: what holds when the option is not given, where that is neither the default nor "off".
        metavar: the value's name in the help text.
        choices: the accepted words, if they can be counted.
        bokeh: the name in `bokeh.settings` that supplies a value too, through `BOKEH_…` or a YAML file.
        least: the smallest number accepted.
        most: the largest number accepted.
        added: whether `bokeh serve` does not have it.
        setting: the field of `Settings` that it fills, if that has another name; None where it fills none by itself,
            because the value is derived from several options (`plan.DERIVED`) or belongs to the command alone.
        convert: from the checked value to the field's.
        keyword: what `Server` calls it, where that is not the option's name.
        node_only: whether it says nothing to a server of one process, which has no gateway and no supervisor.
    """

    flag: str
    kind: Kind
    help: str
    default: object = None
    implied: object = field(default=None, kw_only=True)
    metavar: str | None = field(default=None, kw_only=True)
    choices: tuple[str, ...] | None = field(default=None, kw_only=True)
    bokeh: str | None = field(default=None, kw_only=True)
    least: float | None = field(default=None, kw_only=True)
    most: float | None = field(default=None, kw_only=True)
    added: bool = field(default=False, kw_only=True)
    setting: str | None = field(default=_OF_THE_SAME_NAME, kw_only=True)
    convert: Converter = field(default=as_it_is, kw_only=True)
    keyword: str | None = field(default=None, kw_only=True)
    node_only: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """The name of the value, as argparse makes it of the flag."""
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def fills(self) -> str | None:
        """The field of `Settings` that holds its value, if there is one."""
        return self.name if self.setting == _OF_THE_SAME_NAME else self.setting

    @property
    def environment(self) -> str:
        """The variable that sets this option."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def bokeh_environment(self) -> str | None:
        """Bokeh's variable for it, if there is one."""
        return None if self.bokeh is None else BOKEH_PREFIX + self.bokeh.upper()

    @property
    def effective_default(self) -> object:
        """What holds when the option is not given."""
        return self.default if self.implied is None else self.implied

    def argparse_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `add_argument`; what is not given leaves no trace, so that other sources may speak."""
        described = {"metavar": self.metavar, "choices": self.choices}
        return {
            **_ARGPARSE[self.kind],
            **{key: value for key, value in described.items() if value is not None},
            "default": argparse.SUPPRESS,
            "help": self._help_text(),
        }

    def _help_text(self) -> str:
        if self.kind is Kind.FLAG or self.effective_default is None:
            return self.help
        shown = str(self.effective_default).replace("%", "%%")
        return f"{self.help} (default: {shown})"


OPTIONS: tuple[Option, ...] = (
    Option("--port", Kind.WHOLE, "Port to listen on; 0 takes any free one.", DEFAULT_PORT,
           metavar="PORT", bokeh="default_server_port", least=0, most=BIGGEST_PORT),
    Option("--address", Kind.TEXT, "Address to listen on; all of them if not given.", metavar="ADDRESS",
           convert=if_given),
    Option("--unix-socket", Kind.TEXT, "Listen on this unix socket instead of a port.", metavar="PATH"),
    Option("--log-level", Kind.TEXT, "How much to log.",
           implied="info", metavar="LEVEL", choices=(*LOG_LEVELS, "None"), bokeh="py_log_level", convert=log_level),
    Option("--log-format", Kind.TEXT,
           "Format of a log line: human, json, auto (human on a terminal, else json), or as Python's logging takes it.",
           DEFAULT_LOG_FORMAT, implied="auto", metavar="FORMAT", setting=None),
    Option("--log-file", Kind.TEXT, "File to append the log to, instead of standard error.", metavar="FILE",
           setting=None),
    Option("--use-config", Kind.TEXT, "YAML file with settings of Bokeh.", metavar="FILE", setting=None),
    Option("--args", Kind.REST, "Everything that follows is given to the apps as sys.argv[1:].", metavar="ARGUMENT",
           setting=None),
    Option("--dev", Kind.FILES,
           "Restart when a .py, .html, .css or .yaml file of the app changes, the auth module, a module that the "
           "supervisor has imported for the app, or one of the files named here. One app and one worker only.",
           metavar="FILE", convert=is_given),
    Option("--show", Kind.FLAG, "Open the apps in a browser.", setting=None),
    Option("--allow-websocket-origin", Kind.REPEATED,
           "Public host name from which browsers may connect; * stands for a part of it.",
           implied="localhost:<port>", metavar="HOST[:PORT]", setting=None, keyword="extra_websocket_origins"),
    Option("--prefix", Kind.TEXT, "Path that all URLs begin with.", metavar="PREFIX", convert=prefix),
    Option("--ico-path", Kind.TEXT, "The .ico file to answer as favicon.ico, or 'none'.",
           implied="default", metavar="FILE", bokeh="ico_path", convert=icon),
    Option("--keep-alive", Kind.WHOLE, "Milliseconds between websocket pings; 0 sends none.",
           implied=37_000, metavar="MILLISECONDS", least=0, convert=seconds, keyword="keep_alive_milliseconds"),
    Option("--check-unused-sessions", Kind.WHOLE, "Milliseconds between looks for unused sessions.",
           implied=17_000, metavar="MILLISECONDS", least=1,
           convert=seconds, keyword="check_unused_sessions_milliseconds"),
    Option("--unused-session-lifetime", Kind.WHOLE, "Milliseconds that an unused session is kept.",
           implied=15_000, metavar="MILLISECONDS", least=1,
           convert=seconds, keyword="unused_session_lifetime_milliseconds"),
    Option("--stats-log-frequency", Kind.WHOLE, "Milliseconds between lines of statistics in a debug log.",
           implied=15_000, metavar="MILLISECONDS", least=1,
           convert=seconds, keyword="stats_log_frequency_milliseconds"),
    Option("--mem-log-frequency", Kind.WHOLE,
           "Milliseconds between lines about memory in the log; 0 logs none.",
           implied=0, metavar="MILLISECONDS", least=0, convert=seconds, keyword="mem_log_frequency_milliseconds"),
    Option("--use-xheaders", Kind.FLAG,
           "Take the client's address and scheme from X-Real-Ip, X-Forwarded-For, X-Scheme and X-Forwarded-Proto."),
    Option("--ssl-certfile", Kind.TEXT, "Certificate (PEM) to serve HTTPS with.", metavar="FILE", bokeh="ssl_certfile",
           setting=None),
    Option("--ssl-keyfile", Kind.TEXT, "Private key (PEM) of the certificate, if it is in a file of its own.",
           metavar="FILE", bokeh="ssl_keyfile", setting=None),
    Option("--session-ids", Kind.TEXT,
           "Whether session ids are signed, and whether this server makes them or another program does.",
           implied="unsigned", metavar="MODE", choices=("unsigned", "signed", "external-signed"), setting=None),
    Option("--session-urls", Kind.FLAG,
           "Redirect each page to a URL that names its session, so that reload, history and bookmarks come back to it.",
           added=True),
    Option("--early-pages", Kind.FLAG,
           "Send the pages of apps to browsers before their sessions are made, which happens while BokehJS loads.",
           added=True),
    Option("--user-header", Kind.TEXT,
           "Header in which a proxy that asks for logins names the user; sessions belong to their users.",
           metavar="NAME", convert=if_given, added=True),
    Option("--auth-module", Kind.TEXT, "Python file with authentication hooks.", metavar="FILE", bokeh="auth_module",
           convert=existing_file),
    Option("--enable-xsrf-cookies", Kind.FLAG, "Protect PUT, POST and DELETE handlers with XSRF cookies.", False,
           bokeh="xsrf_cookies", setting="xsrf_cookies", keyword="xsrf_cookies"),
    Option("--exclude-headers", Kind.LIST, "Request headers that apps do not see.", metavar="HEADER", convert=names),
    Option("--exclude-cookies", Kind.LIST, "Cookies that apps do not see.", metavar="COOKIE", convert=names),
    Option("--include-headers", Kind.LIST, "The only request headers that apps see.", metavar="HEADER", convert=names),
    Option("--include-cookies", Kind.LIST, "The only cookies that apps see.", metavar="COOKIE", convert=names),
    Option("--cookie-secret", Kind.TEXT, "Key that signs secure cookies.", metavar="SECRET", bokeh="cookie_secret"),
    Option("--index", Kind.TEXT, "Template (Tornado's syntax) of the page that lists the apps.", metavar="FILE",
           convert=existing_file),
    Option("--disable-index", Kind.FLAG, "Serve no page that lists the apps.",
           setting="use_index", convert=negated, keyword="use_index"),
    Option("--disable-index-redirect", Kind.FLAG, "With a single app, list it instead of redirecting to it.",
           setting="redirect_root", convert=negated, keyword="redirect_root"),
    Option("--num-procs", Kind.WHOLE, "Number of workers; 0 starts one per core.", 1, metavar="N", least=0, most=1024,
           setting=None),
    Option("--num-threads", Kind.WHOLE,
           "Threads of each worker that run app code which is not async; 0 runs it on the event loop, as Bokeh does.",
           0, metavar="N", least=0, most=1024, added=True),
    Option("--session-token-expiration", Kind.WHOLE, "Seconds in which a page's token can start a session.", 300,
           metavar="SECONDS", least=1),
    Option("--websocket-max-message-size", Kind.WHOLE,
           "Largest websocket message accepted, in bytes, over all its frames.", 20 * 1024 * 1024,
           metavar="BYTES", least=1, keyword="websocket_max_message_size_bytes"),
    Option("--websocket-compression-level", Kind.WHOLE, "Compress websocket messages, at this level of zlib.",
           metavar="LEVEL", least=-1, most=9),
    Option("--websocket-compression-mem-level", Kind.WHOLE, "Memory that zlib may take for it.",
           metavar="LEVEL", least=1, most=9),
    Option("--glob", Kind.FLAG, "Read the names of the apps as patterns.", setting=None),
    Option("--admin-port", Kind.TEXT,
           "Port of the admin endpoints; 0 takes any free one, 'none' serves none. Not given, and taken: a free one.",
           "9006", metavar="PORT", convert=admin_port, added=True),
    Option("--admin-address", Kind.TEXT, "Address of the admin endpoints.", "127.0.0.1", metavar="ADDRESS", added=True),
    Option("--admin", Kind.FLAG, "Serve a live dashboard of all nodes at /admin, beside the apps.",
           setting="dashboard", added=True),
    Option("--admin-token", Kind.TEXT,
           "Bearer token that the admin endpoints ask for, except the probes; better in the environment or a file.",
           metavar="TOKEN", setting=None, added=True),
    Option("--admin-token-file", Kind.TEXT, "File that holds that token.", metavar="FILE", setting=None, added=True),
    Option("--drain-delay", Kind.NUMBER,
           "Seconds from SIGTERM in which a node is unready and serves on, until load balancers have noticed.", 0.0,
           metavar="SECONDS", least=0, most=A_DAY, node_only=True, added=True),
    Option("--shutdown-grace", Kind.NUMBER, "Seconds from SIGTERM to exit, at most, after the drain delay.", 8.0,
           metavar="SECONDS", least=0.1, most=A_DAY, added=True),
    Option("--head-timeout", Kind.NUMBER, "Seconds in which a client must send its request head.", 10.0,
           metavar="SECONDS", least=0.1, most=A_DAY, added=True),
    Option("--max-head-size", Kind.WHOLE, "Largest request line with headers accepted, in bytes.", 128 * 1024,
           metavar="BYTES", least=1024, most=128 * 1024, added=True),
    Option("--max-pending-connections", Kind.WHOLE,
           "Connections that may be sending their request head at once; above it the oldest is closed.", 4096,
           metavar="N", least=1, added=True),
    Option("--outbox-limit", Kind.WHOLE,
           "Bytes that may wait for one slow viewer; above it, it is sent the latest values when it has read them.",
           1024 * 1024, metavar="BYTES", least=1, added=True),
    Option("--viewer-timeout", Kind.NUMBER,
           "Seconds after which a viewer is closed whose socket takes nothing of what waits for it.", 60.0,
           metavar="SECONDS", least=0.1, most=A_DAY, added=True),
    Option("--redis-url", Kind.TEXT,
           "Redis through which nodes share sessions: redis://, rediss://, unix:// or redis+sentinel://.",
           metavar="URL", convert=if_given, added=True),
    Option("--redis-namespace", Kind.TEXT, "Prefix that keeps installations in one Redis apart.", "default",
           metavar="NAME", added=True),
    Option("--redis-password", Kind.TEXT, "Password for Redis; better given in the environment, where `ps` is blind.",
           metavar="PASSWORD", convert=if_given, added=True),
    Option("--redis-ca", Kind.TEXT, "Certificates (PEM) to trust when Redis speaks TLS, instead of the system's.",
           metavar="FILE", convert=existing_file, added=True),
    Option("--redis-cert", Kind.TEXT, "Certificate (PEM) to show to Redis.", metavar="FILE",
           convert=existing_file, added=True),
    Option("--redis-key", Kind.TEXT, "Private key (PEM) of that certificate, if it is in a file of its own.",
           metavar="FILE", convert=existing_file, added=True),
    Option("--redis-start", Kind.TEXT, "When Redis cannot be reached at the start: fail, or wait for it unready.",
           "fail", metavar="HOW", choices=("wait", "fail"), setting="redis_wait", convert=waits, added=True),
    Option("--lease", Kind.NUMBER, "Seconds without a heartbeat after which others may take a worker's sessions.", 6.0,
           metavar="SECONDS", least=1, most=3600, added=True),
    Option("--warm-sessions", Kind.WHOLE,
           "Sessions of each app that each worker makes ahead, in idle time; for apps that take long to start.", 0,
           metavar="N", least=0, most=1000, added=True),
    Option("--warm-seconds", Kind.NUMBER, "Seconds after which a session that was made ahead is made anew.", 300.0,
           metavar="SECONDS", least=1, most=A_DAY, added=True),
    Option("--spread-viewers", Kind.WHOLE,
           "Connections of one session above which further ones go to other workers; 0 keeps them together.", 200,
           metavar="N", least=0, node_only=True, added=True),
    Option("--max-worker-memory", Kind.WHOLE,
           "Bytes of memory above which a worker hands its sessions over and is replaced; 0 sets no bound.", 0,
           metavar="BYTES", least=0, node_only=True, added=True),
    Option("--max-worker-age", Kind.NUMBER,
           "Seconds after which a worker hands its sessions over and is replaced; 0 sets no bound.", 0.0,
           metavar="SECONDS", least=0, node_only=True, added=True),
    Option("--durability", Kind.TEXT,
           "What of a session outlives its worker: nothing, all but the last 100 ms (if --redis-url is given), or all "
           "that was acknowledged.",
           metavar="HOW", choices=("none", "async", "ack"), setting=None, added=True),
    Option("--max-snapshot-bytes", Kind.WHOLE, "A session whose document is larger does not outlive its worker.",
           32 * 1024 * 1024, metavar="BYTES", least=1, added=True),
    Option("--slow-callback-warning", Kind.NUMBER,
           "Seconds after which app code that keeps a session or the event loop is logged, with its line; 0 logs none.",
           1.0, metavar="SECONDS", least=0, most=A_DAY, added=True),
    Option("--max-callback-seconds", Kind.NUMBER,
           "Seconds after which a worker whose event loop is stuck is ended, with its stacks in the log; 0 ends none.",
           0.0, metavar="SECONDS", least=0, most=A_DAY, node_only=True, added=True),
    Option("--disable-metrics", Kind.FLAG, "Count nothing for Prometheus; /metrics on the admin port answers 404.",
           setting="metrics", convert=negated, added=True),
    Option("--no-preload", Kind.FLAG,
           "Leave to each worker what the apps import, instead of importing it once before the workers are forked.",
           setting="preload", convert=negated, node_only=True, added=True),
    Option("--stock-models", Kind.FLAG,
           "Have models made by Bokeh's own code, at four times the time and memory, to tell whose fault a fault is.",
           setting="lean_models", convert=negated, keyword="lean_models", added=True),
)  # fmt: skip


BY_NAME = {option.name: option for option in OPTIONS}


def serve_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options and the apps to `parser`; it then tells what was given on the command line, and nothing else."""
    for option in OPTIONS:
        parser.add_argument(option.flag, **option.argparse_arguments())
    parser.add_argument(
        "files", nargs="*", metavar="APP", help="Scripts, notebooks and folders with a main.py (none: an empty page)."
    )
    return parser
