"""What an app reads from `session_context.request`, and who may have which session."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from support.fetch import fetch
from support.node import BOTH, Node, StockNode, kind_name
from support.patience import run
from support.wire import Viewer, page_token, token_of

KIND = pytest.mark.parametrize("kind", BOTH, ids=kind_name)
SMALL_TOKEN = 1024
SECRET = {"BOKEH_SECRET_KEY": "a secret of the tests", "BOKEH_SIGN_SESSIONS": "yes"}


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def node(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """The context app, on one process of stock Bokeh and two workers of ours."""
    options = ["--num-procs", "2"] if request.param is Node else []
    with request.param("context.py", options=options) as node:
        yield node


@pytest.fixture(scope="module")
def ours() -> Iterator[Node]:
    """Two workers of ours, for what stock Bokeh does otherwise."""
    with Node("context.py", options=["--num-procs", "2"]) as node:
        yield node


def shown(node: StockNode, token: str, query: str = "") -> dict[str, Any]:
    """What the app wrote down of its request, as the browser with this token gets it."""

    async def scenario() -> dict[str, Any]:
        async with Viewer.open(node.ws_url("/context") + query, token) as viewer:
            document = await viewer.pull()
            root: Any = document.roots[0]
            found: dict[str, Any] = json.loads(root.text)
            return found

    return run(scenario())


def seen(node: StockNode, query: str = "", headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the app sees of a page request, after the websocket has come too."""
    return shown(node, page_token(node.app_url("/context") + query, headers), query)


def test_an_app_reads_arguments_headers_and_cookies(node: StockNode) -> None:
    """Repeated arguments keep their order, header names are as Tornado writes them, cookies are a dict."""
    context = seen(
        node,
        "?colour=red&colour=blue&size=%C3%BC",
        {"X-Colour": "green", "Cookie": "flavour=oat; user=someone", "User-Agent": "a test"},
    )
    assert context["arguments"] == {"colour": ["red", "blue"], "size": ["ü"]}
    assert context["cookies"] == {"flavour": "oat", "user": "someone"}
    assert context["headers"]["X-Colour"] == "green"
    assert context["headers"]["User-Agent"] == "a test"
    assert context["headers"]["Cookie"] == "flavour=oat; user=someone"
    assert context["path"] == "/context"
    assert context["protocol"] == "http"


def test_the_session_id_is_not_among_the_arguments(node: StockNode) -> None:
    """An id chosen by the client names the session and concerns no other."""
    context = seen(node, "?bokeh-session-id=chosen-by-the-test&a=1")
    assert context["id"] == "chosen-by-the-test"
    assert context["arguments"] == {"a": ["1"]}


def test_the_header_names_the_session_too(node: StockNode) -> None:
    """`Bokeh-Session-Id` does what the argument does, and both at once are refused."""
    context = seen(node, headers={"Bokeh-Session-Id": "chosen-in-a-header"})
    assert context["id"] == "chosen-in-a-header"
    both = fetch(node.app_url("/context?bokeh-session-id=one"), headers={"Bokeh-Session-Id": "two"})
    assert both.status == 403


def test_a_page_with_a_token_is_the_tokens_session(node: StockNode) -> None:
    """`bokeh-token` brings back the session that it was made for, with what its first request had."""
    token = page_token(node.app_url("/context?a=1"))
    first = shown(node, token)
    again = fetch(node.app_url(f"/context?bokeh-token={token}"))
    assert again.status == 200
    assert shown(node, token_of(again.text)) == first
    both = fetch(node.app_url(f"/context?bokeh-token={token}&bokeh-session-id=other"))
    assert both.status == 403


def test_64_kb_of_cookies_and_headers_give_a_small_token(ours: Node) -> None:
    """The app reads all of them, and the token that must fit a request header of a proxy stays small."""
    cookies = {f"cookie{n}": f"{n:02d}" + "c" * 1020 for n in range(32)}
    headers = {f"X-Header-{n}": f"{n:02d}" + "h" * 1020 for n in range(32)}
    request = headers | {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    token = page_token(ours.app_url("/context?a=1"), request)
    assert len(token) < SMALL_TOKEN
    context = shown(ours, token)
    assert context["cookies"] == cookies
    assert {name: context["headers"].get(name) for name in headers} == headers
    assert context["arguments"] == {"a": ["1"]}


@KIND
@pytest.mark.parametrize(
    ("options", "headers", "cookies"),
    [
        (["--include-headers", "X-One", "--include-cookies", "first"], {"X-One"}, {"first"}),
        (["--exclude-headers", "X-One", "--exclude-cookies", "first"], {"X-Two"}, {"second"}),
        (["--include-cookies", "first"], {"X-One", "X-Two"}, {"first"}),
    ],
    ids=["include", "exclude", "include-cookies"],
)
def test_headers_and_cookies_can_be_kept_from_apps(
    kind: type[StockNode], options: list[str], headers: set[str], cookies: set[str]
) -> None:
    """`--include-…` and `--exclude-…` decide what an app sees, and the Cookie header holds no more than the cookies."""
    with kind("context.py", options=options) as node:
        context = seen(node, headers={"X-One": "1", "X-Two": "2", "Cookie": "first=1; second=2"})
    assert {name for name in context["headers"] if name.startswith("X-")} == headers
    assert set(context["cookies"]) == cookies
    for name in {"first", "second"} - cookies:
        assert name not in context["headers"].get("Cookie", "")


@KIND
def test_xheaders_tell_who_is_behind_the_proxy(kind: type[StockNode]) -> None:
    """With `--use-xheaders` the app sees the browser's address and scheme, not the proxy's."""
    headers = {"X-Real-Ip": "203.0.113.7", "X-Scheme": "https"}
    with kind("context.py", options=["--use-xheaders"]) as node:
        context = seen(node, headers=headers)
    assert (context["remote_ip"], context["protocol"]) == ("203.0.113.7", "https")


def test_without_xheaders_nobody_can_claim_an_address(node: StockNode) -> None:
    """The same headers from anybody mean nothing unless an option says that a proxy sets them."""
    context = seen(node, headers={"X-Real-Ip": "203.0.113.7", "X-Scheme": "https"})
    assert context["remote_ip"] in ("127.0.0.1", "::1")
    assert context["protocol"] == "http"


@KIND
def test_signed_sessions_refuse_ids_that_this_server_did_not_sign(kind: type[StockNode]) -> None:
    """With `--session-ids signed` pages still get sessions of their own, but no client can name one."""
    with kind("context.py", options=["--session-ids", "signed"], env=SECRET) as node:
        token = page_token(node.app_url("/context"))
        assert "." in shown(node, token)["id"]
        assert fetch(node.app_url("/context?bokeh-session-id=made-up")).status == 403
        payload, _, signature = token.partition(".")
        forged = payload + "." + ("A" if signature[0] != "A" else "B") + signature[1:]
        assert fetch(node.app_url(f"/context?bokeh-token={forged}")).status == 403


@KIND
def test_external_signed_sessions_need_an_id(kind: type[StockNode]) -> None:
    """With `--session-ids external-signed` only who brings a signed id gets a session."""
    from bokeh.util.token import generate_session_id

    signed = generate_session_id(secret_key=SECRET["BOKEH_SECRET_KEY"].encode(), signed=True)
    with kind("context.py", options=["--session-ids", "external-signed"], env=SECRET) as node:
        assert fetch(node.app_url("/context")).status == 403
        assert seen(node, f"?bokeh-session-id={signed}")["id"] == signed
