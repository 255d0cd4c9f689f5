"""Every route besides the websocket: index, static files, favicon, autoload.js, metadata; and where they are served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from support.fetch import fetch
from support.node import BOTH, EXTENSIONS, Node, StockNode, kind_name
from support.patience import run
from support.wire import Viewer, page_token, token_of

KIND = pytest.mark.parametrize("kind", BOTH, ids=kind_name)
APPS = ("themed", "context.py")
AUTOLOAD = "/context/autoload.js?bokeh-autoload-element=here&bokeh-app-path=/context"
BOKEHJS_FILES = 5
"""The library, WebGL, widgets, tables and MathJax."""
ELSEWHERE = {"Origin": "http://elsewhere.example"}
STRANGER = {"Origin": "http://stranger.example"}
ALLOWED = ["--allow-websocket-origin", "elsewhere.example"]


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def node(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """Two apps, so that there is an index; ours on two workers."""
    options = ["--num-procs", "2"] if request.param is Node else []
    with request.param(*APPS, options=[*options, *ALLOWED]) as node:
        yield node


@pytest.fixture(scope="module")
def ours() -> Iterator[Node]:
    """Two workers of ours, for what stock Bokeh does otherwise."""
    with Node(*APPS, options=["--num-procs", "2", *ALLOWED]) as node:
        yield node


def scripts_of(url: str) -> list[str]:
    """The URLs of the scripts that a page asks for."""
    return [urljoin(url, source) for source in re.findall(r'<script [^>]*src="([^"]+)"', fetch(url).text)]


# -- index


def test_the_index_lists_the_apps(node: StockNode) -> None:
    """With several apps the root page links to each."""
    page = fetch(node.url + "/")
    assert page.status == 200
    assert "/themed" in page.text
    assert "/context" in page.text


@KIND
def test_a_single_app_is_gone_to_at_once(kind: type[StockNode]) -> None:
    """With one app the root redirects to it."""
    with kind("context.py") as node:
        answer = fetch(node.url + "/")
        assert (answer.status, answer.headers["location"]) == (302, "/context")


@KIND
def test_the_redirect_and_the_index_can_be_switched_off(kind: type[StockNode]) -> None:
    """`--disable-index-redirect` shows the list of one; `--disable-index` leaves no root page."""
    with kind("context.py", options=["--disable-index-redirect"]) as node:
        page = fetch(node.url + "/")
        assert page.status == 200
        assert "/context" in page.text
    with kind("context.py", options=["--disable-index"]) as node:
        assert fetch(node.url + "/").status == 404


@KIND
def test_the_index_can_be_ones_own_template(kind: type[StockNode], tmp_path: Path) -> None:
    """`--index` names a Tornado template with `prefix` and `items`."""
    template = tmp_path / "own.html"
    template.write_text("{% for item in items %}[{{ prefix }}|{{ item }}]{% end %}")
    with kind(*APPS, options=["--index", str(template), "--prefix", "p"]) as node:
        assert fetch(node.url + "/p/").text == "[/p|/context][/p|/themed]"


# -- files


def test_pages_name_static_files_that_are_there(node: StockNode) -> None:
    """Every script that the page asks for can be had, from whichever worker is asked, and may be cached."""
    scripts = scripts_of(node.app_url("/context"))
    assert len(scripts) == BOKEHJS_FILES
    for script in scripts:
        answer = fetch(script)
        assert answer.status == 200
        assert "javascript" in answer.headers["content-type"]
        assert "max-age" in answer.headers["cache-control"]
        assert answer.headers["etag"]


def test_an_unchanged_file_is_not_sent_again(node: StockNode) -> None:
    """A browser that names the ETag it has is answered 304 and nothing more."""
    url = node.url + "/static/js/bokeh.min.js"
    etag = fetch(url).headers["etag"]
    again = fetch(url, headers={"If-None-Match": etag})
    assert (again.status, again.body) == (304, b"")


def test_a_directory_app_has_static_files_of_its_own(node: StockNode) -> None:
    """Its `static/` folder is under its own path, and nothing outside the folder is."""
    answer = fetch(node.app_url("/themed/static/page.css"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/css"
    assert "#654321" in answer.text
    assert fetch(node.app_url("/themed/static/../main.py")).status in (403, 404)
    assert fetch(node.app_url("/themed/static/%2e%2e/main.py")).status in (403, 404)
    assert fetch(node.app_url("/themed/static/none.css")).status == 404


def test_a_directory_app_has_its_template_and_theme(node: StockNode) -> None:
    """The page is the template's, with the app's own variables; the theme is in the document that is pulled."""
    page = fetch(node.app_url("/themed")).text
    assert "<h1>hello from main.py</h1>" in page

    async def scenario() -> object:
        async with Viewer.open(node.ws_url("/themed"), token_of(page)) as viewer:
            await viewer.pull()
            return viewer.value("plot", "background_fill_color")

    assert run(scenario()) == "#123456"


def test_the_favicon_is_an_icon(node: StockNode) -> None:
    """Browsers ask for it unasked, and a 404 would show in their consoles."""
    answer = fetch(node.url + "/favicon.ico")
    assert answer.status == 200
    assert answer.headers["content-type"] == "image/x-icon"
    assert answer.body.startswith(b"\0\0\1\0")


@KIND
def test_the_favicon_can_be_ones_own_or_none(kind: type[StockNode], tmp_path: Path) -> None:
    """`--ico-path` names a file; `none` answers 404."""
    icon = tmp_path / "own.ico"
    icon.write_bytes(b"\0\0\1\0 not quite an icon")
    with kind("context.py", options=["--ico-path", str(icon)]) as node:
        assert fetch(node.url + "/favicon.ico").body == icon.read_bytes()
    with kind("context.py", options=["--ico-path", "none"]) as node:
        assert fetch(node.url + "/favicon.ico").status == 404


@KIND
def test_an_extensions_script_is_there_in_every_worker(kind: type[StockNode]) -> None:
    """One worker renders the page that names it; whichever is asked for it, even one that never saw the app, has it."""
    options = ["--num-procs", "4"] if kind is Node else []
    with kind("extension.py", options=options, env={"PYTHONPATH": str(EXTENSIONS)}) as node:
        (script,) = [url for url in scripts_of(node.app_url("/extension")) if "/static/extensions/" in url]
        answers = [fetch(script) for _ in range(40)]
        assert {answer.status for answer in answers} == {200}
        assert "a real extension" in answers[0].text
        assert fetch(f"{node.url}/static/extensions/tinyext/nothing.js").status == 404
        assert fetch(f"{node.url}/static/extensions/nothing/nothing.js").status == 404
        assert fetch(f"{node.url}/static/extensions/tinyext/%2e%2e/__init__.py").status in (403, 404)


# -- autoload.js


def test_autoload_is_for_pages_of_other_origins(node: StockNode) -> None:
    """The script may be read from any origin; with cookies the origin must be named, as browsers demand."""
    answer = fetch(node.url + AUTOLOAD, headers=STRANGER)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/javascript"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert token_of(answer.text)
    with_cookies = fetch(node.url + AUTOLOAD, headers=ELSEWHERE | {"Cookie": "a=b"})
    assert with_cookies.headers["access-control-allow-origin"] == ELSEWHERE["Origin"]


def test_autoload_answers_a_preflight(node: StockNode) -> None:
    """`server_session` sends a header of its own, so the browser asks first."""
    answer = fetch(node.url + AUTOLOAD, "OPTIONS", ELSEWHERE)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ELSEWHERE["Origin"]
    assert "GET" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "*"


def test_cookies_open_autoload_to_allowed_origins_only(ours: Node) -> None:
    """Another site that could read it would have the session of its visitor; the log says what to do."""
    for headers in (STRANGER, STRANGER | {"Cookie": "a=b"}):
        answer = fetch(ours.url + AUTOLOAD, headers=headers)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert fetch(ours.url + AUTOLOAD, "OPTIONS", STRANGER).headers["access-control-allow-origin"] == "*"
    ours.wait_for_log("kept a script from origin .*--allow-websocket-origin=stranger.example")


def test_credentials_need_no_cookie(ours: Node) -> None:
    """A first visit brings none, and the browser refuses a wildcard all the same."""
    answer = fetch(ours.url + AUTOLOAD, headers=ELSEWHERE)
    assert answer.headers["access-control-allow-origin"] == ELSEWHERE["Origin"]
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["vary"] == "Origin"


def test_a_preflight_is_told_the_headers_that_it_asks_for(ours: Node) -> None:
    """By name: with credentials a wildcard stands for nothing, and for `Authorization` it never does."""
    wanted = "authorization,bokeh-session-id"
    answer = fetch(ours.url + AUTOLOAD, "OPTIONS", ELSEWHERE | {"Access-Control-Request-Headers": wanted})
    assert answer.headers["access-control-allow-headers"] == wanted


def test_autoload_needs_an_element(node: StockNode) -> None:
    """Without `bokeh-autoload-element` the script could not know where to draw."""
    assert fetch(node.url + "/context/autoload.js").status == 400


def test_autoload_refuses_a_server_that_is_no_url_before_it_makes_a_session(ours: Node) -> None:
    """An address that cannot be read is the embedding page's mistake."""
    before = [row["id"] for row in ours.sessions()]
    answer = fetch(ours.url + AUTOLOAD + "&bokeh-absolute-url=http://%5B")
    assert answer.status == 400
    assert [row["id"] for row in ours.sessions()] == before
    assert "Traceback" not in ours.log()


def test_autoload_brings_bokehjs_unless_told_not_to(node: StockNode) -> None:
    """`resources=none` is for pages that have BokehJS already; else its URLs are those of the embedding's server."""
    absolute = f"&bokeh-absolute-url={node.app_url('/context')}"
    assert f"{node.url}/static/js/bokeh.min.js" in fetch(node.url + AUTOLOAD + absolute).text
    assert "static/js/bokeh.min.js" not in fetch(node.url + AUTOLOAD + absolute + "&resources=none").text


# -- other methods


def test_metadata_names_the_app(node: StockNode) -> None:
    """`/metadata` is JSON with the app's route, and empty data unless the author attached some."""
    answer = fetch(node.app_url("/context/metadata"))
    assert answer.status == 200
    assert "application/json" in answer.headers["content-type"]
    assert answer.json() == {"url": "/context", "data": {}}


def test_a_trailing_slash_is_the_same_page(node: StockNode) -> None:
    """`/context/` is `/context`."""
    assert token_of(fetch(node.app_url("/context/")).text)


def test_what_is_not_there_is_not_found(node: StockNode) -> None:
    """An unknown app, and an unknown file, are 404; a websocket route without a websocket is 400."""
    assert fetch(node.url + "/nothing-here").status == 404
    assert fetch(node.url + "/nothing-here/ws").status == 404
    assert fetch(node.url + "/static/js/nothing-here.js").status == 404
    assert fetch(node.app_url("/context/ws")).status == 400


def test_pages_take_no_posts(node: StockNode) -> None:
    """Nothing is sent to a page."""
    assert fetch(node.app_url("/context"), "POST", body=b"").status == 405


def test_head_says_that_a_page_is_there_and_makes_no_session(ours: Node) -> None:
    """Probes and link checkers use HEAD; each would otherwise leave a session behind."""
    before = [row["id"] for row in ours.sessions()]
    answer = fetch(ours.app_url("/context"), "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("text/html")
    assert [row["id"] for row in ours.sessions()] == before
    assert fetch(ours.url + "/", "HEAD").status == 200
    assert fetch(ours.url + "/favicon.ico", "HEAD").status == 200
    assert fetch(ours.url + "/static/js/bokeh.min.js", "HEAD").status == 200
    assert fetch(ours.url + "/nothing-here", "HEAD").status == 404


def test_options_are_answered(ours: Node) -> None:
    """A page says which methods it takes, and a preflight without an Origin is no server error."""
    assert "GET" in fetch(ours.app_url("/context"), "OPTIONS").headers["allow"]
    assert fetch(ours.url + AUTOLOAD, "OPTIONS").status == 200


def test_pages_are_not_kept_by_caches(ours: Node) -> None:
    """A page holds the token of one session; two people behind one cache must not share it."""
    assert fetch(ours.app_url("/context")).headers["cache-control"] == "no-store"


# -- where it is served


@KIND
def test_everything_but_the_favicon_is_under_the_prefix(kind: type[StockNode]) -> None:
    """`--prefix` moves pages, websockets and static files."""

    async def scenario(node: StockNode) -> bool:
        token = page_token(node.app_url("/deep/down/context"))
        async with Viewer.open(node.ws_url("/deep/down/context"), token) as viewer:
            return bool((await viewer.pull()).roots)

    with kind("context.py", options=["--prefix", "/deep/down/"]) as node:
        assert node.app_urls == [node.app_url("/deep/down/context")]
        assert run(scenario(node))
        assert fetch(node.url + "/context").status == 404
        assert fetch(node.url + "/deep/down/static/js/bokeh.min.js").status == 200
        assert fetch(node.url + "/favicon.ico").status == 200
        assert fetch(node.url + "/deep/down/").headers["location"] == "/deep/down/context"
        (script, *_) = re.findall(r'src="([^"]+bokeh\.min\.js[^"]*)"', fetch(node.app_url("/deep/down/context")).text)
        assert (
            fetch(f"{node.url}/deep/down/{script}" if script.startswith("static") else node.url + script).status == 200
        )


@KIND
def test_a_node_serves_on_a_unix_socket(kind: type[StockNode], tmp_path: Path) -> None:
    """`--unix-socket` takes the place of the port, and the socket file is gone afterwards or can be taken over."""
    path = tmp_path / "node.sock"
    for _ in range(2):
        with kind("context.py", unix_socket=path):
            page = fetch("http://localhost/context", unix_socket=str(path))
            assert page.status == 200
            assert token_of(page.text)
