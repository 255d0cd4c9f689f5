"""The four proxies with the configurations that are shipped, on ports of the test's own.

What runs is the file in `deploy/` with its addresses replaced, so that the file users copy is the one that is tested.
None of them needs root or leaves anything behind.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

from support.patience import seconds, wait_until
from support.redis import free_port
from support.site import Certificate

__all__ = ["PROXIES", "Apache", "Caddy", "HAProxy", "Nginx", "Proxy"]

DEPLOY = Path(__file__).parents[2] / "deploy"

_NODE = re.compile(r"(?m)^.*127\.0\.0\.1:500[67].*\n")
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Proxy(ABC):
    """A reverse proxy for the time of a `with` block.

    Args:
        upstreams: `host:port` addresses of nodes, which it is in front of as the shipped configuration says.
        certificate: to end TLS with, by the lines that are shipped as comments.
        instead: what to put in the place of parts that are shipped.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    shipped: ClassVar[Path]
    plain: ClassVar[str] = ""
    """The line that those for TLS take the place of."""

    def __init__(
        self,
        upstreams: Sequence[str] = (),
        *,
        certificate: Certificate | None = None,
        instead: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._upstreams = list(upstreams)
        self._certificate = certificate
        self._instead = instead
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.program}-"))
        # Started by root, most of them change to a user who has to get at the files in it.
        self.folder.chmod(0o755)
        self.port = free_port()
        # A certificate is for a name.
        self.url = f"http://127.0.0.1:{self.port}" if certificate is None else f"https://localhost:{self.port}"

    def __enter__(self) -> Self:
        configuration = self.folder / self.shipped.name
        configuration.write_text(self.text())
        # Debian keeps most of them where only root's PATH looks.
        program = shutil.which(self.program) or f"/usr/sbin/{self.program}"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *self.arguments(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"HOME": str(self.folder)},
            )
        wait_until(self._listens, why=f"{self.name} does not listen")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            print(f"--- log of {self.name}\n{self.errors()}")
        if self._process is not None:
            self._process.terminate()  # at once, with its connections
            try:
                self._process.wait(seconds(10))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def errors(self) -> str:
        """What it has complained about."""
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def text(self) -> str:
        """The shipped configuration with these nodes, this port, and what the test has asked for."""
        text = self.shipped.read_text()
        for old, new in self._instead.items():
            assert old in text, f"{old!r} is not in {self.shipped}"
            text = text.replace(old, new)
        if self._certificate is not None:
            text = self._with_tls(text, self._certificate)
        return self.placed(self.with_nodes(text, self._upstreams))

    def _with_tls(self, text: str, certificate: Certificate) -> str:
        """With the lines for TLS, which are the comments that begin without a space."""
        text = re.sub(r"(?m)^(\s*)#(?=\w)", r"\1", text.replace(self.plain, ""))
        places = {
            "/etc/ssl/site.crt": certificate.cert.read_text(),
            "/etc/ssl/site.key": certificate.key.read_text(),
            "/etc/haproxy/site.pem": certificate.cert.read_text() + certificate.key.read_text(),
        }
        for place, content in places.items():
            if place in text:
                ours = self.folder / Path(place).name
                ours.write_text(content)
                text = text.replace(place, str(ours))
        return text

    def with_nodes(self, text: str, upstreams: Sequence[str]) -> str:
        """With a line for each node, as there are for the two that are shipped."""
        lines = _NODE.findall(text)
        assert len(lines) == 2, f"{self.shipped} does not name two nodes"
        ours = [
            lines[0].replace("127.0.0.1:5006", upstream).replace("node1", f"node{number}")
            for number, upstream in enumerate(upstreams, 1)
        ]
        return text.replace("".join(lines), "".join(ours))

    @abstractmethod
    def placed(self, text: str) -> str:
        """On this port of loopback, and with nothing of what belongs to the system's own proxy."""

    @abstractmethod
    def arguments(self, configuration: Path) -> list[str]:
        """Those of the program, which is to stay in the foreground."""

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} has ended: {self.errors()}"
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


def replaced_once(pattern: str, replacement: str, text: str) -> str:
    """What is to be there once, and is no more."""
    text, found = re.subn(pattern, replacement, text)
    assert found == 1, f"{pattern} is there {found} times"
    return text


class Nginx(Proxy):
    """nginx.

    Args:
        locations: `location` blocks to serve instead of all that is shipped.
    """

    name = "nginx"
    program = "nginx"
    shipped = DEPLOY / "nginx" / "nginx.conf"
    plain = "listen 8080;"

    def __init__(
        self,
        upstreams: Sequence[str] = (),
        locations: str | None = None,
        *,
        certificate: Certificate | None = None,
        instead: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(upstreams, certificate=certificate, instead=instead)
        self._locations = locations

    def text(self) -> str:
        if self._locations is None:
            return super().text()
        server = f"server {{ listen 127.0.0.1:{self.port};\n{self._locations}\n}}"
        return f"events {{}}\nhttp {{\naccess_log off;\n{self._own_folders()}{server}\n}}\n"

    def with_nodes(self, text: str, upstreams: Sequence[str]) -> str:
        nodes = self.shipped.with_name("nodes.conf").read_text()
        return replaced_once(r"include nodes\.conf;", super().with_nodes(nodes, upstreams), text)

    def placed(self, text: str) -> str:
        text = replaced_once(r"(?m)^( +)listen \d+( ssl)?;", rf"\1listen 127.0.0.1:{self.port}\2;", text)
        return text.replace("http {\n", "http {\n" + self._own_folders(), 1)

    def arguments(self, configuration: Path) -> list[str]:
        own = f"daemon off; pid {self.folder}/pid; error_log stderr warn;"
        return ["-p", str(self.folder), "-c", str(configuration), "-e", "stderr", "-g", own]

    def _own_folders(self) -> str:
        """Compiled in, these are folders that belong to the system's nginx."""
        return "".join(f"    {name}_temp_path {self.folder / name};\n" for name in _TEMPORARY)


class HAProxy(Proxy):
    """HAProxy."""

    name = "HAProxy"
    program = "haproxy"
    shipped = DEPLOY / "haproxy" / "haproxy.cfg"
    plain = "bind :8080"

    def placed(self, text: str) -> str:
        return replaced_once(r"(?m)^( +)bind :\d+", rf"\1bind 127.0.0.1:{self.port}", text)

    def arguments(self, configuration: Path) -> list[str]:
        return ["-db", "-f", str(configuration)]


class Apache(Proxy):
    """Apache httpd with the modules that the configuration's page names."""

    name = "Apache httpd"
    program = "apache2"
    shipped = DEPLOY / "apache" / "aperture.conf"

    def placed(self, text: str) -> str:
        text = replaced_once(r"(?m)^Listen \d+", f"Listen 127.0.0.1:{self.port}", text)
        return self._server() + replaced_once(r"<VirtualHost \*:\d+>", f"<VirtualHost *:{self.port}>", text)

    def arguments(self, configuration: Path) -> list[str]:
        return ["-D", "FOREGROUND", "-d", str(self.folder), "-f", str(configuration)]

    def _server(self) -> str:
        """What a site finds there already."""
        modules = re.search(r"a2enmod ((?:\w+ ?)+)", (self.shipped.with_name("README.md")).read_text())
        assert modules is not None, "the page names no modules"
        names = ["mpm_event", "authz_core", "slotmem_shm", "socache_shmcb", *modules[1].split()]
        loaded = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in names]
        places = [f"PidFile {self.folder}/pid", "ErrorLog /dev/stderr", f"DefaultRuntimeDir {self.folder}"]
        # As root it would change to another user, who has no log to write to.
        user = ["User www-data", "Group www-data"] if os.getuid() == 0 else []
        return "\n".join([*loaded, *places, "Mutex pthread", "ServerName localhost", *user, ""])


class Caddy(Proxy):
    """Caddy."""

    name = "Caddy"
    program = "caddy"
    shipped = DEPLOY / "caddy" / "Caddyfile"

    def with_nodes(self, text: str, upstreams: Sequence[str]) -> str:
        return replaced_once(r"127\.0\.0\.1:5006 127\.0\.0\.1:5007", " ".join(upstreams), text)

    def placed(self, text: str) -> str:
        text = replaced_once(r"(?m)^:8080 {", f":{self.port} {{\n\tbind 127.0.0.1", text)
        # Its own admin port, and what it would do for certificates on port 80.
        return "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text

    def arguments(self, configuration: Path) -> list[str]:
        return ["run", "--adapter", "caddyfile", "--config", str(configuration)]


PROXIES: tuple[type[Proxy], ...] = (Nginx, HAProxy, Apache, Caddy)
