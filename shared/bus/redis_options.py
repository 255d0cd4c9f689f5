"""Where Redis is and how to be let in: the options of the bus, and the URL among them taken apart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from aperture.bus.names import DEFAULT_NAMESPACE, is_namespace
from aperture.config.settings import Settings
from aperture.errors import ConfigurationError

__all__ = ["BusOptions", "Place"]

_PORT = 6379
_SENTINEL_PORT = 26379
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL points to.

    Args:
        addresses: of Redis, or of the sentinels that know where it is; empty for a unix socket.
        path: of the unix socket.
        service: what the sentinels call the Redis that is meant.
        tls: whether Redis is spoken to in TLS.
        db: number of the database.
        username: from the URL.
        password: from the URL.
    """

    addresses: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    service: str | None = None
    tls: bool = False
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        """For people to read: never with a password."""
        if self.path is not None:
            return f"unix:{self.path}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{hosts}/{self.service}" if self.service is not None else hosts


@dataclass(frozen=True, slots=True)
class BusOptions:
    """How to reach Redis. Times are in seconds.

    Args:
        url: `redis://`, `rediss://` (TLS), `unix://`, or `redis+sentinel://host:port[,host:port]/service[/db]`.
        namespace: of the installation; what else is in that Redis is left alone.
        password: wins over the URL's.
        ca: file with the certificates to trust, in PEM format; the system's if None.
        cert: file with our own certificate.
        key: file with its private key, if that is in a file of its own.
        verify: whether the server's certificate must be good, and be for the name in the URL.
        connect_timeout: for a connection to be ready, from the first packet to the last subscription.
        held: descriptor of the unix socket's file in this process, through which Redis is found when the path is gone.
        command_timeout: for an answer. A connection that is silent for longer while one is due is given up.
        ping_interval: between two questions whether a quiet connection still works.

    Raises:
        ConfigurationError: the URL or the namespace is not one. The text holds no password.
    """

    url: str = field(repr=False)
    namespace: str = DEFAULT_NAMESPACE
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    held: int | None = None
    connect_timeout: float = 3.0
    command_timeout: float = 3.0
    ping_interval: float = 1.0

    def __post_init__(self) -> None:
        if not is_namespace(self.namespace):
            raise ConfigurationError(
                f"the Redis namespace {self.namespace!r} is none: letters, digits, dots, dashes and underscores only"
            )
        _parse(self.url)

    @classmethod
    def of(cls, settings: Settings, url: str | None = None) -> BusOptions:
        """The options that a node's settings describe.

        Args:
            url: instead of the settings' own, which may be None.

        Raises:
            ConfigurationError: there is no URL, or it or the namespace is not one.
        """
        where = settings.redis_url if url is None else url
        if where is None:
            raise ConfigurationError("there is no Redis URL")
        return cls(
            where,
            namespace=settings.redis_namespace,
            password=settings.redis_password,
            ca=settings.redis_ca,
            cert=settings.redis_cert,
            key=settings.redis_key,
            held=settings.redis_held if url is None else None,
        )

    @property
    def place(self) -> Place:
        """Where the URL points to."""
        return _parse(self.url)

    def credentials(self) -> dict[str, Any]:
        """Keyword arguments for a connection of redis-py."""
        place = self.place
        password = self.password if self.password is not None else place.password
        return {"username": place.username, "password": password, "db": place.db}

    def tls(self) -> dict[str, Any]:
        """Keyword arguments for a TLS connection of redis-py."""
        return {
            "ssl_ca_certs": self.ca,
            "ssl_certfile": self.cert,
            "ssl_keyfile": self.key,
            "ssl_cert_reqs": "required" if self.verify else "none",
            "ssl_check_hostname": self.verify,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }


def _parse(url: str) -> Place:
    try:
        split = urlsplit(url)
        if split.scheme not in _SCHEMES:
            raise ValueError(f"it has to start with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
        return _place(split)
    except ValueError as problem:
        # The URL itself is not quoted: it may hold a password.
        raise ConfigurationError(f"not a Redis URL: {problem}") from None


def _place(split: SplitResult) -> Place:
    user, _, hosts = split.netloc.rpartition("@")
    username, _, password = user.partition(":")
    login: dict[str, Any] = {"username": unquote(username) or None, "password": unquote(password) or None}
    if split.scheme == "unix":
        if not split.path or hosts:
            raise ValueError("a unix socket is named unix:///path, with three slashes")
        return Place(path=unquote(split.path), db=_query_db(split.query), **login)
    tls = split.scheme.startswith("rediss")
    parts = [unquote(part) for part in split.path.split("/") if part]
    if split.scheme.endswith("+sentinel"):
        if not 1 <= len(parts) <= 2:
            raise ValueError("after the sentinels comes /service, and perhaps /db")
        addresses = tuple(_address(host, _SENTINEL_PORT) for host in hosts.split(","))
        return Place(addresses, service=parts[0], tls=tls, db=_db(parts[1:]), **login)
    if len(parts) > 1:
        raise ValueError("after the host comes /db, a number, and nothing else")
    return Place((_address(hosts, _PORT),), tls=tls, db=_db(parts) if parts else _query_db(split.query), **login)


def _address(text: str, default_port: int) -> tuple[str, int]:
    split = urlsplit(f"//{text}")
    if not split.hostname:
        raise ValueError("a host is missing")
    try:
        return split.hostname, default_port if split.port is None else split.port
    except ValueError:
        # The reason given would quote what may be a part of a password with a slash in it.
        raise ValueError("the port is not a number (a password has to be percent-encoded)") from None


def _db(parts: list[str]) -> int:
    if not parts:
        return 0
    if not parts[0].isdecimal():
        raise ValueError("the database is not a number")
    return int(parts[0])


def _query_db(query: str) -> int:
    if not query:
        return 0
    name, _, value = query.partition("=")
    if name != "db" or not value.isdecimal():
        raise ValueError("of parameters only ?db=<number> is known")
    return int(value)
