"""Websockets and the origins of their pages: the option, Bokeh's setting, and what browsers say; as stock Bokeh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from support.fetch import fetch
from support.node import BOTH, Node, StockNode, kind_name
from support.patience import run
from support.wire import Viewer, page_token
from tornado.httpclient import HTTPClientError

from aperture.errors import ExitCode

SETTING = "BOKEH_ALLOW_WS_ORIGIN"


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def node(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """One allowed origin."""
    with request.param("context.py", options=["--allow-websocket-origin", "dashboard.corp"]) as node:
        yield node


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def restricted(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """The setting instead, with a comma too many."""
    with request.param("context.py", options=["--allow-websocket-origin", "a.b"], env={SETTING: "dash.corp,"}) as node:
        yield node


def status(node: StockNode, headers: Mapping[str, str]) -> int:
    """What the handshake of a websocket with these headers is answered with."""

    async def scenario() -> int:
        try:
            async with Viewer.open(node.ws_url("/context"), page_token(node.app_url("/context")), headers=headers):
                return 101
        except HTTPClientError as refused:
            return refused.code

    return run(scenario())


@pytest.mark.parametrize(
    ("site", "origin", "expected"),
    [
        ("same-origin", "https://public.corp", 101),
        ("none", "https://public.corp", 101),
        ("cross-site", "https://public.corp", 403),
        ("same-site", "https://public.corp", 403),
        ("cross-site", "http://dashboard.corp", 101),
        ("cross-site", "own", 403),
        ("cross-site", None, 403),
        ("same-origin", None, 101),
        (None, "own", 101),
        (None, "https://public.corp", 403),
        (None, "http://dashboard.corp", 101),
        (None, None, 101),
    ],
)
def test_a_browsers_word_is_taken_for_its_own_pages(
    node: StockNode, site: str | None, origin: str | None, expected: int
) -> None:
    """`Sec-Fetch-Site` holds even where a proxy changes the Host header, and only a browser can be misled."""
    headers = {"Sec-Fetch-Site": site, "Origin": node.url if origin == "own" else origin}
    assert status(node, {name: value for name, value in headers.items() if value is not None}) == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [("https://dash.corp", 101), ("https://dash.corp:8443", 101), ("http://a.b", 403), ("http://other.corp", 403)],
)
def test_the_setting_takes_the_options_place(restricted: StockNode, origin: str, expected: int) -> None:
    """There a host without a port stands for any port."""
    assert status(restricted, {"Origin": origin}) == expected
    script = fetch(restricted.app_url("/context/autoload.js?bokeh-autoload-element=e"), headers={"Origin": origin})
    assert script.status == 200


def test_a_setting_that_is_no_origin_ends_the_start() -> None:
    """With the code of wrong usage, and a line that names it, instead of refusing every page later."""
    with Node("context.py", env={SETTING: "https://dash.corp"}, wait=False) as node:
        assert node.wait() == ExitCode.USAGE
        assert f"{SETTING}: invalid websocket origin 'https://dash.corp'" in node.log()


def test_an_origin_that_is_no_url_is_refused() -> None:
    """With 403 and without a traceback, whatever is wrong with it."""
    with Node("context.py") as node:
        for origin in ("http://[localhost:5006", "http://[::1", "http://a]b", "//[", "http://[v1.x"):
            assert status(node, {"Origin": origin}) == 403
        assert "Traceback" not in node.log()
