"""Origins of pages: what is admitted is of an admitted host, however a URL parser may be misled."""

from __future__ import annotations

from urllib.parse import urlsplit

from bokeh.server.util import check_allowlist
from fuzz.target import Target

from aperture.worker.http.allowed_origins import AllowedOrigins

PATTERNS = ["dash.corp", "*.inner.corp:8080", "[::1]:5006", "192.168.1.*:*"]

ALLOWED = AllowedOrigins(PATTERNS)

STOCKS = ["dash.corp:80", "*.inner.corp:8080", "[::1]:5006", "192.168.1.*:*"]
"""The same as Bokeh has them: its command adds the port."""

SEEDS = [
    b"http://dash.corp", b"https://dash.corp:80", b"http://a.inner.corp:8080", b"http://[::1]:5006", b"null",
    b"http://192.168.1.7:99", b"https://dash.corp.evil.com", b"http://dash.corp@evil.com", b"dash.corp",
]  # fmt: skip

WORDS = [b"@", b"//", b"/", b"?", b"#", b":80", b":", b".", b"[", b"]", b"*", b"evil.com", b"dash.corp", b"%2e", b"\\"]


def check(drawn: bytes) -> bool:
    """What ours admits, stock does; and its host is one of those named, to the letter."""
    origin = drawn.decode("latin-1")
    if not ALLOWED.admits(origin):
        return False
    netloc = urlsplit(origin).netloc.lower() if "//" in origin else origin.lower()
    host = netloc.rpartition(":")[0] if ":" in netloc.rpartition("]")[2] else netloc
    assert host == "dash.corp" or host.endswith(".inner.corp") or host == "[::1]" or host.startswith("192.168.1.")
    assert _admitted_by_stock(netloc)
    return True


def _admitted_by_stock(netloc: str) -> bool:
    return bool(check_allowlist(netloc, STOCKS))


ORIGINS = Target("origins", SEEDS, check, WORDS)
