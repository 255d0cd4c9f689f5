"""Addresses of apps and of their websockets."""

from __future__ import annotations

import pytest

from aperture.client.urls import app_url, server_url_for_websocket_url, websocket_url_for_server_url, with_query
from aperture.errors import BadAddress


@pytest.mark.parametrize(
    ("page", "socket"),
    [
        ("http://localhost:5006/sliders", "ws://localhost:5006/sliders/ws"),
        ("https://example.org/prefix/app/", "wss://example.org/prefix/app/ws"),
        ("http://[::1]:80", "ws://[::1]:80/ws"),
        ("http://localhost/app?theme=dark", "ws://localhost/app/ws?theme=dark"),
        ("http://localhost/my app/Übersicht/", "ws://localhost/my%20app/%C3%9Cbersicht/ws"),
        ("http://localhost/my%20app", "ws://localhost/my%20app/ws"),
    ],
)
def test_an_apps_websocket_is_below_it(page: str, socket: str) -> None:
    """Whatever the scheme, and with or without a slash at the end."""
    assert websocket_url_for_server_url(page) == socket


@pytest.mark.parametrize("url", ["http://localhost:5006/", "https://example.org/a/b/"])
def test_there_and_back(url: str) -> None:
    """A websocket's address leads to its app's."""
    assert server_url_for_websocket_url(websocket_url_for_server_url(url)) == url


@pytest.mark.parametrize("url", ["ws://localhost/app", "localhost:5006", "ftp://h/x", "http://", "http://h:port/", ""])
def test_what_is_no_apps_address_is_refused(url: str) -> None:
    """Each with the one exception, which is a ValueError as Bokeh's is."""
    with pytest.raises(BadAddress) as refused:
        app_url(url)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("url", ["http://localhost/ws", "ws://localhost/app", "wss://"])
def test_what_is_no_websockets_address_is_refused(url: str) -> None:
    """A page's address, and one that does not end as an app's websocket does."""
    with pytest.raises(BadAddress):
        server_url_for_websocket_url(url)


def test_the_default_is_a_local_server() -> None:
    """As `bokeh.client` has it."""
    assert app_url("default") == "http://localhost:5006"


def test_arguments_are_added_to_those_that_are_there() -> None:
    """Several values of one name, and what must be escaped."""
    assert with_query("ws://h/ws?a=1", {"b": ["2", "3"], "c": "x y&z"}) == "ws://h/ws?a=1&b=2&b=3&c=x+y%26z"
