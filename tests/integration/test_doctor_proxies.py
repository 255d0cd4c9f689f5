"""`aperture doctor` through each proxy: as it is shipped, and wrong in one of the usual ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.doctor import examine
from support.node import EXAMPLES, Node
from support.proxy import PROXIES, Apache, Caddy, HAProxy, Nginx, Proxy

from aperture.doctor import remedies
from aperture.doctor.remedies import Remedy

FIELDS = dict(zip(PROXIES, ("nginx", "haproxy", "apache", "caddy"), strict=True))
_FRONTEND, _SITE, _PROXY = "    option forwardfor\n", ":8080 {\n", "lb_policy round_robin\n"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What the command has to say of one: the check that fails, and how."""

    check: str
    remedy: Remedy
    verdict: str = "problem"
    path: str = ""
    """In front of the app's."""


MISTAKES = {
    "no upgrade": Mistake("websocket", remedies.UPGRADE),
    "another host": Mistake("websocket", remedies.HOST),
    "prefix taken away": Mistake("addresses", remedies.PREFIX, path="/below"),
    "small heads": Mistake("headers", remedies.HEAD, "warning"),
    "small bodies": Mistake("bodies", remedies.BODY, "warning"),
    "short timeout": Mistake("idle", remedies.IDLE),
}
WRONG: dict[type[Proxy], dict[str, Mapping[str, str]]] = {
    Nginx: {
        "no upgrade": {"proxy_set_header Upgrade $http_upgrade;": ""},
        "another host": {"proxy_set_header Host $http_host;": ""},
        "prefix taken away": {"location / {": "location /below/ {", "http://aperture;": "http://aperture/;"},
        "small heads": {"large_client_header_buffers 4 64k;": ""},
        "small bodies": {"client_max_body_size 100m;": ""},
        "short timeout": {"proxy_read_timeout 120s": "proxy_read_timeout 4s"},
    },
    HAProxy: {
        "no upgrade": {_FRONTEND: f"{_FRONTEND}    http-request del-header Upgrade\n"},
        "another host": {_FRONTEND: f"{_FRONTEND}    http-request set-header Host nodes.internal\n"},
        "prefix taken away": {
            _FRONTEND: f"{_FRONTEND}    http-request deny deny_status 404 unless {{ path_beg /below/ }}\n"
            "    http-request replace-path /below(.*) \\1\n"
        },
        "small heads": {"tune.bufsize 65536": ""},
        "small bodies": {
            _FRONTEND: f"{_FRONTEND}    http-request deny deny_status 413 if {{ req.body_size gt 1000000 }}\n"
        },
        "short timeout": {"timeout tunnel 120s": "timeout tunnel 4s"},
    },
    Apache: {
        "no upgrade": {" upgrade=websocket": ""},
        "another host": {"ProxyPreserveHost On": ""},
        "prefix taken away": {'ProxyPass "/"': 'ProxyPass "/below/"'},
        "small heads": {"LimitRequestFieldSize 65536": ""},
        "short timeout": {" timeout=120": " timeout=4", "ProxyPreserveHost On": "ProxyPreserveHost On\nTimeout 4"},
    },
    Caddy: {
        "no upgrade": {_PROXY: f"{_PROXY}\t\theader_up -Upgrade\n"},
        "another host": {_PROXY: f"{_PROXY}\t\theader_up Host {{upstream_hostport}}\n"},
        "prefix taken away": {
            _SITE: f"{_SITE}\t@others not path /below/*\n\tredir @others https://example.org\n"
            "\turi strip_prefix /below\n"
        },
        "short timeout": {"read_timeout 120s": "read_timeout 4s"},
    },
}
"""httpd and Caddy ask a node first, which has a bound of its own for bodies of pages, and answer what it says. Caddy's
bound of heads is 1 MB unless a directive lowers it for the whole server."""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    options = ["--num-procs", "2", "--early-pages", "--session-urls"]
    with Node(EXAMPLES / "apps" / "sliders.py", options=options) as node:
        yield node


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.program)
def test_a_shipped_configuration_passes_every_check(node: Node, kind: type[Proxy]) -> None:
    """16 KB of cookies, and 2 MB of a body, among others."""
    with kind([f"127.0.0.1:{node.port}"]) as proxy:
        code, findings = examine(f"{proxy.url}/sliders", "--patience", "0.3")
    assert {finding["verdict"] for finding in findings.values()} == {"ok"}, findings
    assert {"early pages", "session URLs"} <= findings.keys()
    assert code == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in PROXIES for name in WRONG[kind]],
    ids=lambda value: value if isinstance(value, str) else value.program,
)
def test_a_proxy_that_is_wrong_in_one_way_is_found_out(node: Node, kind: type[Proxy], name: str) -> None:
    """The check that it fails says what to write for this proxy."""
    mistake = MISTAKES[name]
    with kind([f"127.0.0.1:{node.port}"], instead=WRONG[kind][name]) as proxy:
        patience = "8" if mistake.check == "idle" else "0"
        code, findings = examine(f"{proxy.url}{mistake.path}/sliders", "--patience", patience)
    assert {check for check, found in findings.items() if found["verdict"] != "ok"} == {mistake.check}, findings
    assert findings[mistake.check]["verdict"] == mistake.verdict
    assert getattr(mistake.remedy, FIELDS[kind]) in findings[mistake.check]["mend"]
    assert code == (mistake.verdict == "problem")


def test_a_host_without_its_port_is_found_out(node: Node) -> None:
    """nginx's `$host`, which many pages name, is another origin where the port is not that of the scheme."""
    with Nginx([f"127.0.0.1:{node.port}"], instead={"$http_host": "$host"}) as proxy:
        code, findings = examine(f"{proxy.url}/sliders")
    assert code == 1
    assert remedies.HOST.nginx in findings["websocket"]["mend"]


@pytest.fixture
def kept_pages() -> Iterator[Mapping[str, str]]:
    """What makes nginx keep every answer for a minute, against what it says."""
    keeping = "proxy_cache kept; proxy_cache_valid 200 303 1m; proxy_ignore_headers Cache-Control Set-Cookie Vary;"
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # started by root, nginx changes to a user who has to get there
        yield {
            "upstream aperture {": f"proxy_cache_path {folder}/kept keys_zone=kept:1m;\n    upstream aperture {{",
            "proxy_http_version 1.1;": f"proxy_http_version 1.1; {keeping}",
        }


def test_redirects_to_urls_of_sessions_that_are_kept_or_rewritten_are_found_out(
    node: Node, kept_pages: Mapping[str, str]
) -> None:
    """One visitor's session for the next one; and a new session for each reload."""
    with Nginx([f"127.0.0.1:{node.port}"], instead=kept_pages) as proxy:
        code, findings = examine(f"{proxy.url}/sliders")
    assert (code, set(findings)) == (1, {"session URLs"}), findings
    assert "two visitors" in findings["session URLs"]["what"]
    with Nginx([f"127.0.0.1:{node.port}"], instead={"http://aperture;": "http://aperture$uri;"}) as proxy:
        code, findings = examine(f"{proxy.url}/sliders")
    assert (code, set(findings)) == (1, {"session URLs"}), findings
    assert "arguments" in findings["session URLs"]["what"]


def test_pages_that_are_kept_are_found_out(kept_pages: Mapping[str, str]) -> None:
    """One visitor's page for the next one."""
    with (
        Node(EXAMPLES / "apps" / "sliders.py") as node,
        Nginx([f"127.0.0.1:{node.port}"], instead=kept_pages) as proxy,
    ):
        code, findings = examine(f"{proxy.url}/sliders")
    assert code == 1
    assert "two visitors" in findings["sessions"]["what"]


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.program)
@pytest.mark.parametrize("name", ["UPGRADE", "HOST", "FORWARDED", "HEAD", "BODY", "IDLE"])
def test_remedies_name_directives_of_the_shipped_configurations(kind: type[Proxy], name: str) -> None:
    """Unless a proxy does the right thing by itself."""
    text = dataclasses.asdict(vars(remedies)[name])[FIELDS[kind]]
    names = {directive.split(" ")[0] for directive in text.split("; ") if not directive.startswith("no ")}
    assert not {name for name in names if name not in kind.shipped.read_text()}
