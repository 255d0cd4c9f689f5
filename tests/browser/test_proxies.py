"""The proxies that are shipped a configuration for, each in front of two nodes, with Chromium before it.

One row of the table in docs/proxies.md for each proxy: page, websocket, upload, idle, prefix, TLS, drain and death.
"""

from __future__ import annotations

import os
import re
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.browser import BrowserTabs, Tab, move_and_see
from support.cluster import session_of
from support.fetch import fetch
from support.node import EXAMPLES, Node
from support.patience import run, run_aside, wait_until
from support.proxy import PROXIES, Apache, Caddy, HAProxy, Nginx, Proxy
from support.redis import RedisServer, free_port
from support.site import Certificate, self_signed
from support.wire import Viewer, page_token

SLIDERS = EXAMPLES / "apps" / "sliders.py"
MEGABYTE = 1024 * 1024
UPLOAD = 50 * MEGABYTE
PINGS = 0.5
"""Seconds between two of them."""
PACE = 0.1
"""Seconds between two pages of a visitor: each makes a session, and the machine has other things to do."""
QUIET = 4
"""Seconds after which the proxy of the test for that cuts a quiet websocket."""

ATTEMPT_FAILED = re.compile(r"Unexpected response code: 50[23]|Could not open websocket")
"""BokehJS says so of an attempt to reconnect, and makes another."""

SHORT: dict[type[Proxy], dict[str, str]] = {
    Nginx: {"proxy_read_timeout 120s": f"proxy_read_timeout {QUIET}s"},
    HAProxy: {"timeout tunnel 120s": f"timeout tunnel {QUIET}s"},
    Apache: {" timeout=120": f" timeout={QUIET}", "ProxyPreserveHost On": f"ProxyPreserveHost On\nTimeout {QUIET}"},
    Caddy: {"read_timeout 120s": f"read_timeout {QUIET}s"},
}
BELOW: dict[type[Proxy], dict[str, str]] = {
    Nginx: {"location / {": "location /below/ {"},
    HAProxy: {"default_backend aperture": "use_backend aperture if { path_beg /below/ }"},
    Apache: {'ProxyPass "/" "balancer://aperture/"': 'ProxyPass "/below" "balancer://aperture/below"'},
    Caddy: {"reverse_proxy 127": "reverse_proxy /below/* 127"},
}
"""What the pages of deploy/ say of an app below a path; nothing else of the site is the nodes'."""


class Pair:
    """Two nodes over one Redis, each of which can be stopped, killed and started again where it was.

    Args:
        url: of Redis.
        options: of both.
    """

    def __init__(self, url: str, *options: str) -> None:
        common = ["--redis-url", url, "--num-procs", "2", "--use-xheaders", "--durability", "ack", *options]
        self._options = [[*common, "--port", str(free_port())] for _ in range(2)]
        self._stack = ExitStack()
        self.nodes: list[Node] = []

    def __enter__(self) -> Pair:
        with ExitStack() as stack:
            for options in self._options:
                node = Node(SLIDERS, "large.py", options=options, wait=False)
                self.nodes.append(stack.enter_context(node))
            for node in self.nodes:
                node.await_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.__exit__(*exc_info)  # type: ignore[arg-type]

    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{options[-1]}" for options in self._options]

    def owner(self, tab: Tab) -> Node | None:
        """The node that has the session of a tab, while a viewer looks at it."""
        for node in self.nodes:
            if node.process.poll() is None:
                for row in node.sessions():
                    if tab.session_id().startswith(row["id"]) and row["connections"] == 1:
                        return node
        return None

    @contextmanager
    def again_afterwards(self, node: Node) -> Iterator[None]:
        """Start a node again that the block ends, whatever comes of it: the next test has it too."""
        try:
            yield
        finally:
            if node.process.poll() is not None:
                node.wait()
                node.start_again(workers=2)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    options = ["--keep-alive", str(int(PINGS * 1000)), "--websocket-max-message-size", str(100 * MEGABYTE)]
    options += ["--auth-module", str(Path(__file__).parents[1] / "support" / "apps" / "uploading.py")]
    with RedisServer(port=free_port()) as redis, Pair(redis.url, *options) as pair:
        yield pair


@pytest.fixture(scope="module")
def below() -> Iterator[Node]:
    with Node(SLIDERS, options=["--prefix", "/below"]) as node:
        yield node


@pytest.fixture(scope="module", params=PROXIES, ids=lambda kind: kind.program)
def kind(request: pytest.FixtureRequest) -> type[Proxy]:
    found: type[Proxy] = request.param
    return found


@pytest.fixture(scope="module")
def proxy(kind: type[Proxy], pair: Pair) -> Iterator[Proxy]:
    with kind(pair.addresses()) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def file_to_upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "large.bin"
    path.write_bytes(b"\xa5" * UPLOAD)
    return path


@contextmanager
def pages_meanwhile(url: str) -> Iterator[Counter[int]]:
    """What a visitor gets who asks for one page after the other, for as long as the block takes."""
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def visit() -> None:
        while not done.wait(PACE):
            statuses[fetch(url).status] += 1

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        yield statuses
    finally:
        done.set()
        visitor.join()


def test_a_page_answers_in_the_browser(proxy: Proxy, tabs: BrowserTabs) -> None:
    """A slider moves its wave."""
    tab = tabs(f"{proxy.url}/sliders")
    assert move_and_see(tab, 0.9) != move_and_see(tab, 0.2)


def test_pages_and_websockets_are_any_nodes(proxy: Proxy, pair: Pair) -> None:
    """Both nodes make pages, and websockets reach nodes that did not make theirs: nothing is sticky."""
    pages: Counter[int] = Counter()
    strayed = 0

    async def open_one() -> None:
        nonlocal strayed
        token = page_token(f"{proxy.url}/sliders")
        async with Viewer.open(f"ws{proxy.url.removeprefix('http')}/sliders/ws", token) as viewer:
            await viewer.pull()
            for number, node in enumerate(pair.nodes):
                for row in node.sessions():
                    if session_of(token).startswith(row["id"]):
                        pages[number] += 1
                        strayed += row["edges"]

    def enough() -> bool:
        run(open_one())
        # One request more between two pages: with an even number for each of them, all would be one node's turn.
        fetch(f"{proxy.url}/favicon.ico")
        return len(pages) == 2 and strayed > 0

    run_aside(lambda: wait_until(enough, 30, f"pages by node {dict(pages)}, websockets at another node {strayed}"))


def test_an_upload_of_50_mb_arrives(proxy: Proxy, tabs: BrowserTabs, file_to_upload: Path) -> None:
    """By a widget, which sends it over the websocket, and as the body of a request."""
    tab = tabs(f"{proxy.url}/large")
    tab.page.locator("input[type=file]").set_input_files(file_to_upload)
    encoded = (UPLOAD + 2) // 3 * 4
    tab.wait_for(
        "text => Bokeh.documents[0].get_model_by_name('count').text === text", argument=str(encoded), nominal=60
    )
    answer = fetch(f"{proxy.url}/upload", "POST", body=file_to_upload.read_bytes())
    assert (answer.status, answer.text) == (200, str(UPLOAD))
    tab.page.close()


def test_pings_keep_an_idle_page_open(kind: type[Proxy], pair: Pair, tabs: BrowserTabs) -> None:
    """A page without input for longer than the proxy's timeout still has its first websocket."""

    async def let_time_pass(url: str) -> None:
        token = page_token(f"{url}/sliders")
        async with Viewer.open(f"ws{url.removeprefix('http')}/sliders/ws", token) as viewer:
            await viewer.wait_for_pings(int(1.5 * QUIET / PINGS))

    with kind(pair.addresses(), instead=SHORT[kind]) as proxy:
        tab = tabs(f"{proxy.url}/sliders")
        run_aside(lambda: run(let_time_pass(proxy.url)))
        assert tab.page.evaluate("() => window.__sockets.map(socket => socket.readyState)") == [1]
        move_and_see(tab, 0.9)
        tab.page.close()


def test_an_app_below_a_path_works(kind: type[Proxy], below: Node, tabs: BrowserTabs) -> None:
    """The nodes know the path, the proxy leaves it as it is, and the rest of the site is not theirs."""
    with kind([f"127.0.0.1:{below.port}"], instead=BELOW[kind]) as proxy:
        tab = tabs(f"{proxy.url}/below/sliders")
        move_and_see(tab, 0.9)
        assert "bokeh" not in fetch(f"{proxy.url}/sliders").text.lower()
        tab.page.close()
        # The icon of the site, which a browser asks for by itself, is not the nodes' either.
        tab.problems[:] = [problem for problem in tab.problems if f"{proxy.url}/favicon.ico" not in problem]


def test_tls_ends_at_the_proxy(
    kind: type[Proxy], pair: Pair, certificate: Certificate, trusting_tabs: BrowserTabs
) -> None:
    """The page is safe, its websocket is too, and the nodes know the visitor, the scheme and the name."""
    with kind(pair.addresses(), certificate=certificate) as proxy:
        tab = trusting_tabs(f"{proxy.url}/sliders")
        move_and_see(tab, 0.9)
        assert tab.page.evaluate("() => window.__sockets[0].url").startswith("wss://localhost:")
        spoken = tab.page.evaluate("() => performance.getEntriesByType('navigation')[0].nextHopProtocol")
        assert spoken == ("h2" if kind in (HAProxy, Caddy) else "http/1.1")
        seen = fetch(f"{proxy.url}/upload", trust=ssl._create_unverified_context())
        assert seen.text == f"https 127.0.0.1 localhost:{proxy.port}"
        tab.page.close()


def kill(node: Node) -> None:
    """Take a machine away."""
    for pid in node.processes():
        os.kill(pid, signal.SIGKILL)
    node.wait()


def drain(node: Node) -> None:
    """Stop a node as a deploy does."""
    assert node.stop() == 0


@pytest.mark.parametrize("end", [drain, kill])
def test_a_node_that_ends_costs_nobody_anything(
    proxy: Proxy, pair: Pair, tabs: BrowserTabs, end: Callable[[Node], None]
) -> None:
    """Its open page goes on at the other node with what it showed, every new page is answered, and it gets its turn
    again once it is back."""
    tab = tabs(f"{proxy.url}/sliders")
    shown = move_and_see(tab, 0.9)
    wave = tab.column("wave", "y")
    first = wait_until(lambda: pair.owner(tab), 30, "no node has the session")
    tab.mark_document()
    with pair.again_afterwards(first):
        with pages_meanwhile(f"{proxy.url}/sliders") as statuses:
            end(first)
            second = wait_until(lambda: pair.owner(tab), 60, "the page does not come back to its session")
            before = statuses[200]
            wait_until(lambda: statuses[200] > before + 4, 60, "no page is answered")
        assert second is not first
        tab.wait_back()
        assert tab.value("amplitude", "value") == shown
        assert tab.column("wave", "y") == wave
        assert move_and_see(tab, 0.2) != shown
        lost = {status: count for status, count in statuses.items() if status != 200}
        # Who was being answered by a node that is killed gets an error, once: the app's code may have run. What a node
        # answers that stops is passed on by httpd and Caddy; the other proxies ask the next one.
        assert sum(lost.values()) <= (end is kill or isinstance(proxy, Apache | Caddy)), lost
        if isinstance(proxy, Apache):
            tab.problems[:] = [problem for problem in tab.problems if not ATTEMPT_FAILED.search(problem)]

    def has_its_turn() -> bool:
        assert fetch(f"{proxy.url}/sliders").status == 200
        return bool(first.sessions())

    wait_until(has_its_turn, 30, "the node that is back gets nothing")
