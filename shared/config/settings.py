"""Every option of a node, decided once and passed to all parts that need it.

`gateway/cli.py` builds the one `Settings` of a node from the command line, the environment and Bokeh's own settings;
`aperture.Server` builds it from keyword arguments. Nothing else reads options, so nothing else can disagree about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aperture.protocol.allowance import USUAL_MESSAGE_SIZE

__all__ = ["DASHBOARD_ROUTE", "DEFAULT_ADMIN_PORT", "DEFAULT_PORT", "Durability", "SessionIds", "Settings", "Tls"]

DEFAULT_PORT = 5006
"""Bokeh's own default port."""

DEFAULT_ADMIN_PORT = 9006

DASHBOARD_ROUTE = "/admin"
"""Where the dashboard is, after the prefix."""


class SessionIds(Enum):
    """Who makes session ids, and whether they are signed (`--session-ids`)."""

    UNSIGNED = "unsigned"
    SIGNED = "signed"
    EXTERNAL_SIGNED = "external-signed"
    EXTERNAL_UNSIGNED = "external-unsigned"
    """Only from Python, as `generate_session_ids=False`; Bokeh's command line has no word for it either."""

    @property
    def signed(self) -> bool:
        return self in (SessionIds.SIGNED, SessionIds.EXTERNAL_SIGNED)

    @property
    def generated(self) -> bool:
        """Whether this server makes ids for requests that bring none."""
        return self in (SessionIds.SIGNED, SessionIds.UNSIGNED)


class Durability(Enum):
    """What of a session outlives its worker (`--durability`)."""

    NONE = "none"
    ASYNC = "async"
    """All but the last tenth of a second."""
    ACK = "ack"
    """All that was acknowledged."""


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate to serve HTTPS with; both paths are files in PEM format."""

    certfile: str
    keyfile: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of one node. Times are in seconds and sizes in bytes, whatever unit the option had."""

    # Where to listen
    port: int = DEFAULT_PORT
    address: str | None = None
    unix_socket: str | None = None
    tls: Tls | None = None
    admin_port: int | None = DEFAULT_ADMIN_PORT
    """0 picks a free port; None serves no admin endpoints."""
    admin_port_stated: bool = False
    """Whether the port was given; otherwise, where it is taken, any free one does."""
    admin_address: str = "127.0.0.1"
    dashboard: bool = False
    """Whether there is a live dashboard at `DASHBOARD_ROUTE`, on the app port."""
    admin_token: str | None = field(default=None, repr=False)
    """What a request must bring for anything but the probes; None asks for nothing."""

    # Processes
    node: str = "node"
    """This node's name among the others; given anew at each start."""
    num_procs: int = 1
    num_threads: int = 0
    """Threads of each worker for app code that is not async; 0 runs it on the event loop."""
    shutdown_grace: float = 8.0
    """From SIGTERM to exit. Docker kills 10 s after its SIGTERM, so this stays below."""
    drain_delay: float = 0.0
    """From SIGTERM to the first closing, with everything going on but readiness; the grace period begins after it."""
    max_worker_memory: int = 0
    """Bytes of resident memory above which a worker hands its sessions over and is replaced; 0 sets no bound."""
    max_worker_age: float = 0.0
    """Seconds after which it does so; 0 sets no bound. Workers of one node spread out by up to a fifth more."""
    slow_callback_warning: float = 1.0
    """Seconds after which app code that keeps a session or the event loop is logged; 0 logs none."""
    max_callback_seconds: float = 0.0
    """Seconds after which a worker whose event loop is stuck is ended; 0 ends none."""
    preload: bool = True
    """Whether the supervisor imports what the apps import, before it forks."""
    dev: bool = False

    # URLs
    prefix: str = ""
    """Empty, or a path as it stands in URLs, which starts with a slash and does not end with one."""
    index: str | None = None
    use_index: bool = True
    redirect_root: bool = True
    absolute_url: str | None = None
    ico_path: str | None = None
    """A file, or None to answer 404."""
    use_xheaders: bool = False
    extra_patterns: Sequence[Any] = ()

    # Who may connect
    allow_websocket_origin: tuple[str, ...] | None = None
    """None means `localhost:<port>`, as in Bokeh; same-origin requests are always allowed."""
    session_ids: SessionIds = SessionIds.UNSIGNED
    secret_key: bytes | None = field(default=None, repr=False)
    session_urls: bool = False
    """Whether a page without a session is redirected to the URL of one."""
    early_pages: bool = False
    """Whether a browser's page is sent before its session is made, where the app's pages are Bokeh's own."""
    user_header: str | None = None
    """Where there is no auth module: the header that names the user, which a proxy sets and clients cannot."""
    session_token_expiration: int = 300
    auth_module: str | None = None
    auth_provider: Any | None = None
    """An object shaped like `bokeh.server.auth_provider.AuthProvider`; wins over `auth_module`."""
    xsrf_cookies: bool = False
    cookie_secret: str | None = field(default=None, repr=False)
    include_headers: tuple[str, ...] | None = None
    exclude_headers: tuple[str, ...] | None = None
    include_cookies: tuple[str, ...] | None = None
    exclude_cookies: tuple[str, ...] | None = None

    # Sessions
    keep_alive: float = 37.0
    """Seconds between websocket pings; 0 sends none."""
    check_unused_sessions: float = 17.0
    unused_session_lifetime: float = 15.0

    # Between workers and nodes
    redis_url: str | None = field(default=None, repr=False)
    """None starts a server of the node's own, if one is needed."""
    redis_held: int | None = None
    """A descriptor of the socket's file where that server is the node's own; workers inherit it."""
    redis_namespace: str = "default"
    redis_password: str | None = field(default=None, repr=False)
    redis_ca: str | None = None
    redis_cert: str | None = None
    redis_key: str | None = None
    redis_wait: bool = False
    """Whether a node starts, unready, while Redis cannot be reached."""
    lease: float = 6.0
    """Seconds without a heartbeat after which a worker's sessions may be claimed by others."""
    durability: Durability = Durability.NONE
    max_snapshot_bytes: int = 32 * 1024 * 1024
    """A session whose document is larger is not stored."""
    stored_lifetime: float = 300.0
    """Seconds that the stored state of a session outlives its worker: BokehJS gives up after thirty."""
    warm_sessions: int = 0
    """Sessions of each app that each worker has ready before anybody asks for one."""
    warm_seconds: float = 300.0
    """Age at which a session that was made ahead, and was not taken, is made anew."""
    spread_viewers: int = 200
    """Connections of one session above which further ones are placed on other workers; 0 never does that."""

    # Limits
    websocket_max_message_size: int = USUAL_MESSAGE_SIZE
    websocket_compression_level: int | None = None
    websocket_compression_mem_level: int | None = None
    max_head_size: int = 128 * 1024
    """A request line and its headers. 64 KB of cookies must fit; a hand-over message must hold it in one piece."""
    head_timeout: float = 10.0
    """From accept to the end of the request head."""
    max_pending_connections: int = 4096
    """Connections whose head is still being read; above it the oldest is closed, so idle ones shut no others out."""
    outbox_limit: int = 1024 * 1024
    """The high-water mark of one viewer: above it, patches are coalesced until its socket has drained."""
    viewer_timeout: float = 60.0
    """Seconds without any progress after which a viewer for whom something waits is closed with 1013."""

    # Models
    lean_models: bool = True
    """Whether Bokeh's property system is patched to make its models with less work: `aperture.worker.document.lean`."""

    # Metrics
    metrics: bool = True
    metrics_dir: str | None = None
    """Where the processes of a node share their numbers; the supervisor makes it. None where none are shared."""

    # Logs
    log_level: str = "info"
    stats_log_frequency: float = 15.0
    mem_log_frequency: float = 0.0

    tornado_settings: Mapping[str, Any] = field(default_factory=dict)
    """Passed through to `tornado.web.Application`."""
    http_server_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Passed through to `tornado.httpserver.HTTPServer`."""
