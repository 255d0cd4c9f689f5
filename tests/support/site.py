"""Another web site: pages on an origin of their own, with TLS or without, that embed what a node serves."""

from __future__ import annotations

import contextlib
import functools
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["Certificate", "Site", "page_with", "self_signed", "site_at"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate and of its key."""

    cert: Path
    key: Path

    def options(self) -> list[str]:
        """A node's options."""
        return ["--ssl-certfile", str(self.cert), "--ssl-keyfile", str(self.key)]


def self_signed(folder: Path) -> Certificate:
    """A certificate for localhost that no authority has signed."""
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run(command, check=True, capture_output=True)
    return made


def page_with(script: str) -> str:
    """A page that holds nothing else. It names an icon, as browsers complain of one that is not there."""
    return f'<!doctype html><html><head><link rel="icon" href="data:,"></head><body>{script}</body></html>'


@dataclass(frozen=True, slots=True)
class Site:
    """A site that serves the files of a folder."""

    folder: Path
    port: int
    scheme: str = "http"

    def publish(self, name: str, script: str) -> str:
        """Make a page with this script in it; returns its URL."""
        (self.folder / f"{name}.html").write_text(page_with(script), encoding="utf-8")
        return f"{self.scheme}://localhost:{self.port}/{name}.html"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers close connections as they like, in the middle of a TLS handshake, too."""


@contextlib.contextmanager
def site_at(folder: Path, certificate: Certificate | None = None) -> Iterator[Site]:
    """Serve a folder on a free port for the time of a `with` block."""
    with _Server(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.cert, certificate.key)
            # The handshake belongs to the connection's thread: a browser opens connections that it never uses.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(folder, server.server_port, "http" if certificate is None else "https")
        server.shutdown()
