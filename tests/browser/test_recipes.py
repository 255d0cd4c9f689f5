"""The recipes of docs/embedding.md: each example runs as its own program, and Chromium opens its page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support.browser import BrowserTabs, Tab, profile
from support.fetch import fetch
from support.node import EXAMPLES, Node
from support.program import running
from support.redis import free_port
from support.site import site_at

SLIDERS = EXAMPLES / "apps" / "sliders.py"
EMBEDDING = EXAMPLES / "embedding"
AUTOLOAD = "/sliders/autoload.js?bokeh-autoload-element=x"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A page and the node whose app it shows."""

    url: str
    node: Node


def assert_works(tab: Tab) -> None:
    """A slider moved with the mouse moves the wave, and the plot is drawn anew."""
    before, drawn = tab.column("wave", "y"), tab.picture("plot")
    tab.drag_slider("frequency", 0.9)
    tab.wait_for_column("wave", "y", before)
    tab.wait_for_redraw("plot", drawn)


def test_a_plain_page_shows_an_app(tabs: BrowserTabs, tmp_path: Path) -> None:
    """`plain.html`, from a static server, with the address of this test's node in it."""
    page = (EMBEDDING / "plain.html").read_text(encoding="utf-8")
    assert page.count("http://localhost:5006/sliders") == 2
    with (
        site_at(tmp_path) as site,
        Node(SLIDERS, options=["--allow-websocket-origin", f"localhost:{site.port}"]) as node,
    ):
        (tmp_path / "plain.html").write_text(page.replace("http://localhost:5006", node.url))
        assert_works(tabs(f"http://localhost:{site.port}/plain.html"))


# -- FastAPI


@pytest.fixture(scope="module")
def fastapi() -> Iterator[Recipe]:
    port = free_port()
    key = {"BOKEH_SECRET_KEY": "of the tests"}
    options = ["--num-procs", "2", "--session-ids", "external-signed", "--allow-websocket-origin", f"localhost:{port}"]
    with Node(SLIDERS, options=options, env=key) as node:
        arguments = ["--server", node.app_url("/sliders"), "--port", str(port)]
        with running(
            EMBEDDING / "fastapi_app.py", *arguments, says="Uvicorn running on", env=key | {"SITE_PASSWORD": "sesame"}
        ):
            yield Recipe(f"http://localhost:{port}/", node)


def test_fastapi_lets_visitors_with_the_password_in(fastapi: Recipe, chromium: Browser) -> None:
    """Each page has a session of its own, whose id the program has signed."""
    login = {"username": "ada", "password": "sesame"}
    with profile(chromium, http_credentials=login) as tabs:
        for number in (1, 2):
            assert_works(tabs(fastapi.url))
            assert len(fastapi.node.sessions()) == number


def test_there_is_no_way_around_fastapi(fastapi: Recipe) -> None:
    """No page without the password, and no session without a signed id."""
    assert fetch(fastapi.url).status == 401
    url = fastapi.node.url + AUTOLOAD
    assert fetch(url).status == 403
    assert fetch(url, headers={"Bokeh-Session-Id": "made-up"}).status == 403


# -- Django


@pytest.fixture(scope="module")
def django() -> Iterator[Recipe]:
    port = free_port()
    env = {"DJANGO_SECRET_KEY": "of the tests", "DJANGO_URL": f"http://localhost:{port}/"}
    login = ["--auth-module", str(EMBEDDING / "django_auth.py")]
    options = ["--num-procs", "2", *login, "--allow-websocket-origin", f"localhost:{port}"]
    with Node(SLIDERS, options=options, env=env) as node:
        arguments = ["--server", node.app_url("/sliders"), "--port", str(port)]
        with running(EMBEDDING / "django_app.py", *arguments, says="Starting development server", env=env):
            yield Recipe(f"http://localhost:{port}/", node)


def test_a_login_at_django_is_one_for_the_app(django: Recipe, tabs: BrowserTabs) -> None:
    """The visitor types a name there, and the app is drawn."""
    tab = tabs()
    tab.page.goto(django.url)
    tab.page.get_by_label("Your name").fill("<ada>")
    tab.page.get_by_role("button", name="Log in").click()
    assert_works(tab.wait_idle())
    tab.page.get_by_text("Hello <ada>").wait_for()


def test_strangers_are_sent_to_django(django: Recipe) -> None:
    """Also those with a cookie that Django has not signed."""
    for cookie in ({}, {"Cookie": "apps_user=ada:1tFgZd:c2lnbmF0dXJl"}):
        answer = fetch(django.node.app_url("/sliders"), headers=cookie)
        assert answer.status == 302
        assert answer.headers["location"].startswith(django.url)
