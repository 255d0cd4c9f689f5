"""What to write into the proxies that stand in front of nodes, for each mistake that the checks find. No I/O.

The directives are those of the configurations in `deploy/`, which a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BODY", "FORWARDED", "HEAD", "HOST", "IDLE", "PREFIX", "UPGRADE", "Remedy"]


@dataclass(frozen=True, slots=True)
class Remedy:
    """The directives for one mistake, or what to look for where a proxy does the right thing by itself."""

    nginx: str
    haproxy: str
    apache: str
    caddy: str

    def __str__(self) -> str:
        return f"nginx: {self.nginx}. HAProxy: {self.haproxy}. Apache: {self.apache}. Caddy: {self.caddy}"


UPGRADE = Remedy(
    nginx='proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"',
    haproxy="no rule that removes Upgrade or Connection",
    apache="upgrade=websocket behind the address in ProxyPass or BalancerMember, from 2.4.47 on",
    caddy="no header_up that removes Upgrade or Connection",
)
HOST = Remedy(
    nginx="proxy_set_header Host $http_host",
    haproxy="no set-header Host",
    apache="ProxyPreserveHost On",
    caddy="no header_up Host",
)
PREFIX = Remedy(
    nginx="proxy_pass without a path",
    haproxy="no replace-path",
    apache="the same path in both arguments of ProxyPass",
    caddy="handle, and neither handle_path nor uri strip_prefix",
)
FORWARDED = Remedy(
    nginx="proxy_set_header X-Forwarded-Proto $scheme",
    haproxy="http-request set-header X-Forwarded-Proto https",
    apache="RequestHeader set X-Forwarded-Proto https",
    caddy="no header_up X-Forwarded-Proto",
)
HEAD = Remedy(
    nginx="large_client_header_buffers 4 64k",
    haproxy="tune.bufsize 65536",
    apache="LimitRequestFieldSize 65536",
    caddy="no max_header_size below its 1MB",
)
BODY = Remedy(
    nginx="client_max_body_size 100m",
    haproxy="no rule on req.body_size",
    apache="LimitRequestBody 104857600",
    caddy="no request_body max_size",
)
IDLE = Remedy(
    nginx="proxy_read_timeout 120s",
    haproxy="timeout tunnel 120s",
    apache="timeout=120 behind the address in ProxyPass or BalancerMember",
    caddy="read_timeout 120s in its transport",
)
