"""`server_document` and `server_session`, unmodified, in pages of other origins: each option, prefix, TLS, login."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bokeh.core.types import ID
from bokeh.embed import server_document, server_session
from bokeh.resources import Resources
from support.browser import BrowserTabs, Tab
from support.node import APPS, EXAMPLES, Node
from support.proxy import Nginx
from support.site import Certificate, Site, self_signed, site_at

SLIDERS = EXAMPLES / "apps" / "sliders.py"
ANY_PORT = ["--allow-websocket-origin", "localhost:*"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_at(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure_site(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Site]:
    with site_at(tmp_path_factory.mktemp("secure-site"), certificate) as site:
        yield site


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[Node]:
    """Two workers under a prefix, for pages of one site."""
    origin = ["--allow-websocket-origin", f"localhost:{site.port}"]
    with Node(SLIDERS, "context.py", options=["--num-procs", "2", "--prefix", "/apps", *origin]) as node:
        yield node


@pytest.fixture(scope="module")
def secure_node(certificate: Certificate) -> Iterator[Node]:
    """Two workers behind TLS, for those who are logged in."""
    login = ["--auth-module", str(APPS / "auth.py"), "--cookie-secret", "of the tests"]
    options = ["--num-procs", "2", *ANY_PORT, *certificate.options(), *login]
    with Node(SLIDERS, "context.py", options=options) as node:
        yield node


def assert_works(tab: Tab, fraction: float = 0.9) -> None:
    """A slider moved with the mouse moves the wave, and the plot is drawn anew."""
    before, drawn = tab.column("wave", "y"), tab.picture("plot")
    tab.drag_slider("amplitude", fraction)
    tab.wait_for_column("wave", "y", before)
    tab.wait_for_redraw("plot", drawn)


def seen_by_app(tab: Tab) -> dict[str, Any]:
    """What the app knows of the request that made its session."""
    shown: dict[str, Any] = json.loads(tab.value("context", "text"))
    return shown


# -- the options


def test_a_document_works_under_a_prefix(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """The script, BokehJS and the websocket are all found below it."""
    assert_works(tabs(site.publish("prefix", server_document(node.app_url("/apps/sliders")))))


def test_a_session_works_under_a_prefix(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """Its id goes in a header, before which the browser asks; two pages with one id show one session."""
    script = server_session(None, ID("of-two-pages"), url=node.app_url("/apps/sliders"))
    first, second = (tabs(site.publish(f"session-{number}", script)) for number in range(2))
    assert_works(first)
    second.wait_for_value("amplitude", "value", first.value("amplitude", "value"))


def test_arguments_reach_the_app(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """Whatever characters they are made of; those that would name a session are left out by Bokeh."""
    arguments = {"place": "Zürich & <b>", "bokeh-session-id": "no"}
    tab = tabs(site.publish("arguments", server_document(node.app_url("/apps/context"), arguments=arguments)))
    assert seen_by_app(tab)["arguments"]["place"] == ["Zürich & <b>"]
    assert seen_by_app(tab)["id"] != "no"


@pytest.mark.parametrize("name", ["X-Department", "Authorization"])
def test_headers_reach_the_app(node: Node, site: Site, tabs: BrowserTabs, name: str) -> None:
    """`Authorization`, too, which browsers send only where it is allowed by name."""
    script = server_document(node.app_url("/apps/context"), headers={name: "of mine"})
    tab = tabs(site.publish(f"headers-{name}", script))
    assert seen_by_app(tab)["headers"][name] == "of mine"


def test_headers_ride_with_a_session(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """Beside its id, which is in one itself."""
    url = node.app_url("/apps/context")
    tab = tabs(
        site.publish("both", server_session(None, ID("with-headers"), url=url, headers={"X-Department": "mine"}))
    )
    assert seen_by_app(tab)["headers"]["X-Department"] == "mine"
    assert seen_by_app(tab)["id"] == "with-headers"


@pytest.mark.parametrize("cookies", [{}, {"flavour": "ginger"}], ids=["first-visit", "later"])
@pytest.mark.parametrize("kind", ["document", "session"])
def test_credentials_reach_the_app(
    node: Node, site: Site, tabs: BrowserTabs, kind: str, cookies: dict[str, str]
) -> None:
    """The cookies of the server's host, if there are any: a first visit has none and works as well."""
    url = node.app_url("/apps/context")
    for name, value in cookies.items():
        tabs.add_cookie(name=name, value=value, url=node.url)
    if kind == "document":
        script = server_document(url, with_credentials=True)
    else:
        script = server_session(None, ID(f"credentials-{len(cookies)}"), url=url, with_credentials=True)
    assert seen_by_app(tabs(site.publish(f"credentials-{kind}", script)))["cookies"] == cookies


def test_without_credentials_no_cookie_is_sent(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """Unless the page asks for it the app does not learn who is there."""
    tabs.add_cookie(name="flavour", value="ginger", url=node.url)
    tab = tabs(site.publish("none", server_document(node.app_url("/apps/context"))))
    assert seen_by_app(tab)["cookies"] == {}


def test_a_page_may_bring_bokehjs_itself(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """`resources=None`: each file is asked for once, by the page."""
    files = Resources(mode="server", root_url=f"{node.url}/apps/").js_files
    scripts = "".join(f'<script src="{file}"></script>' for file in files)
    url = site.publish("own", scripts + server_document(node.app_url("/apps/sliders"), resources=None))
    tab = tabs()
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url.partition("?")[0]))
    assert_works(tab.open(url))
    assert sorted(asked_file for asked_file in asked if asked_file.endswith("bokeh.min.js")) == files[:1]


def test_a_page_with_a_security_policy(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """As docs/embedding.md says what to allow, and nothing else."""
    policy = f"""default-src 'none'; script-src 'unsafe-inline' blob: {node.url}; style-src 'unsafe-inline';
        img-src data:; connect-src {node.url} {node.url.replace("http", "ws")}"""
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    url = site.publish("policy", server_document(node.app_url("/apps/sliders")))
    page = site.folder / "policy.html"
    page.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{meta}"), encoding="utf-8")
    assert_works(tabs(url))


def test_two_documents_on_one_page(node: Node, site: Site, tabs: BrowserTabs) -> None:
    """Each is a session of its own, and both are drawn."""
    both = "".join(server_document(node.app_url(f"/apps/{app}")) for app in ("sliders", "context"))
    tab = tabs(site.publish("two", both))
    tab.wait_for("() => Bokeh.documents.length === 2 && Bokeh.documents.every(each => each.is_idle)")
    ids = tab.page.evaluate("() => Bokeh.documents.map(each => each.roots().length)")
    assert ids == [1, 1]


# -- origins


def test_a_site_that_is_not_allowed_is_told_nothing(node: Node, tabs: BrowserTabs, tmp_path: Path) -> None:
    """With a visitor's cookies it would get that visitor's session: the browser keeps the script from it."""
    tabs.add_cookie(name="flavour", value="ginger", url=node.url)
    with site_at(tmp_path) as stranger:
        tab = tabs()
        with tab.page.expect_event("console", lambda message: "CORS policy" in message.text):
            tab.page.goto(stranger.publish("x", server_document(node.app_url("/apps/context"), with_credentials=True)))
        assert tab.page.evaluate("() => window.Bokeh") is None
        node.wait_for_log(rf"--allow-websocket-origin=localhost:{stranger.port}")
        tab.problems.clear()


# -- one origin for page and apps


LOCATIONS = """
    location /apps/ {
        proxy_pass http://127.0.0.1:%d;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_set_header Host $http_host;
    }
    location / { proxy_pass http://127.0.0.1:%d; }
"""


@pytest.mark.parametrize("kind", ["document", "session"])
def test_relative_urls_behind_a_proxy(node: Node, site: Site, tabs: BrowserTabs, kind: str) -> None:
    """Page and apps on one origin, which the script then does not name, and which need not be allowed."""
    if kind == "document":
        script = server_document("/apps/sliders", relative_urls=True)
    else:
        script = server_session(None, ID("relative"), url="/apps/sliders", relative_urls=True)
    site.publish(f"relative-{kind}", script)
    with Nginx(locations=LOCATIONS % (node.port, site.port)) as proxy:
        tab, hosts = tabs(), set[str]()
        tab.page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        tab.page.on("websocket", lambda socket: hosts.add(socket.url.split("/")[2]))
        assert_works(tab.open(f"{proxy.url}/relative-{kind}.html"))
        assert hosts == {f"127.0.0.1:{proxy.port}"}


# -- TLS and login


def test_a_visitor_who_is_logged_in_sees_the_app_behind_tls(
    secure_node: Node, secure_site: Site, trusting_tabs: BrowserTabs
) -> None:
    """Script, BokehJS and websocket by TLS, and the cookie of the login with script and websocket."""
    trusting_tabs.add_cookie(name="user", value="ada", url=secure_node.url)
    url = secure_node.app_url("/sliders")
    assert url.startswith("https://")
    for number, script in enumerate(
        (
            server_document(url, with_credentials=True),
            server_session(None, ID("of-ada"), url=url, with_credentials=True),
        )
    ):
        assert_works(trusting_tabs(secure_site.publish(f"tls-{number}", script)), 0.8)
