"""nginx with the configuration that is shipped, on ports of the test's own.

What runs is `deploy/nginx/nginx.conf` with its addresses replaced, so that the file users copy is the one that is
tested. It needs no root and leaves nothing behind.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from support.patience import seconds, wait_until
from support.redis import free_port

__all__ = ["CONFIGURATION", "NODES", "Nginx", "rendered", "with_locations"]

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx" / "nginx.conf"
NODES = CONFIGURATION.with_name("nodes.conf")

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def rendered(configuration: str, port: int, upstreams: Sequence[str], directory: Path) -> str:
    """The shipped configuration, listening on a port of loopback, in front of these addresses."""
    shipped = re.findall(r"(?m)^server 127\.0\.0\.1:\d+( [^;]+)?;$", NODES.read_text())
    assert len(shipped) == 2, "the shipped configuration names two nodes"
    servers = "".join(f"server {upstream}{shipped[0]};\n" for upstream in upstreams)
    text, included = re.subn(r"include nodes\.conf;", lambda _: servers, configuration)
    assert included == 1
    text, listens = re.subn(r"listen \d+;", f"listen 127.0.0.1:{port};", text)
    assert listens == 1
    return text.replace("http {\n", "http {\n" + _own_folders(directory), 1)


def with_locations(locations: str, port: int, directory: Path) -> str:
    """A configuration of a test's own: some `location` blocks on a port of loopback."""
    server = f"server {{ listen 127.0.0.1:{port};\n{locations}\n}}"
    return f"events {{}}\nhttp {{\naccess_log off;\n{_own_folders(directory)}{server}\n}}\n"


def _own_folders(directory: Path) -> str:
    """Compiled in, these are folders that belong to the system's nginx."""
    return "".join(f"    {name}_temp_path {directory / name};\n" for name in _TEMPORARY)


class Nginx:
    """A reverse proxy for the time of a `with` block.

    Args:
        upstreams: `host:port` addresses of nodes, which it is in front of as the shipped configuration says.
        locations: `location` blocks to serve instead of all that is shipped.
        instead: what to put in the place of directives that are shipped, by their names.
    """

    def __init__(
        self,
        upstreams: Sequence[str] = (),
        locations: str | None = None,
        *,
        instead: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._upstreams = list(upstreams)
        self._instead = instead
        self._locations = locations
        self._directory = Path(tempfile.mkdtemp(prefix="nginx-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Nginx:
        (self._directory / "nginx.conf").write_text(self._text())
        own = f"daemon off; pid {self._directory}/pid; error_log {self._directory}/errors warn;"
        # Debian keeps it where only root's PATH looks.
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self._process = subprocess.Popen(
            [program, "-p", self._directory, "-c", self._directory / "nginx.conf", "-e", "stderr", "-g", own],
            stdin=subprocess.DEVNULL,
        )
        wait_until(self._listens, why=f"nginx does not listen: {self.errors()}")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.terminate()  # at once, with its connections
            try:
                self._process.wait(seconds(10))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def errors(self) -> str:
        """What nginx has complained about."""
        log = self._directory / "errors"
        return log.read_text() if log.exists() else ""

    def _text(self) -> str:
        if self._locations is not None:
            return with_locations(self._locations, self.port, self._directory)
        shipped = CONFIGURATION.read_text()
        for name, value in self._instead.items():
            shipped, changed = re.subn(rf"(?m)^( *){name} .*;$", rf"\g<1>{name} {value};", shipped)
            assert changed == 1, f"{name} is there {changed} times"
        return rendered(shipped, self.port, self._upstreams, self._directory)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"nginx has ended: {self.errors()}"
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0
