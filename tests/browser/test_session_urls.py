"""Reload, history and bookmarks in Chromium: with session URLs they come back to the session that they showed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from support.browser import BrowserTabs, Tab, profile
from support.cluster import Cluster

ALICE, BOB = {"X-User": "alice"}, {"X-User": "bob"}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    options = ["--session-urls", "--user-header", "X-User", "--durability", "ack"]
    with Cluster("relayed.py", options=options) as cluster:
        yield cluster


@pytest.fixture
def alice(chromium: Browser) -> Iterator[BrowserTabs]:
    with profile(chromium, extra_http_headers=ALICE) as tabs:  # as the proxy in front names her
        yield tabs


@pytest.fixture
def bob(chromium: Browser) -> Iterator[BrowserTabs]:
    with profile(chromium, extra_http_headers=BOB) as tabs:
        yield tabs


def move(tab: Tab, fraction: float) -> int:
    """Move the slider; returns its value when the app has followed."""
    tab.page.bring_to_front()
    before = tab.value("seen", "text")
    tab.drag_slider("slider", fraction)
    tab.wait_for(
        """before => { const [d] = Bokeh.documents, text = d.get_model_by_name('seen').text;
          return text !== before && text === String(d.get_model_by_name('slider').value); }""",
        before,
    )
    value: int = tab.value("slider", "value")
    return value


def shows(tab: Tab, value: int) -> None:
    tab.wait_idle()
    tab.wait_for_value("slider", "value", value)
    tab.wait_for_value("seen", "text", str(value))


def test_everything_that_leads_back_to_a_url_leads_back_to_its_session(
    cluster: Cluster, alice: BrowserTabs, bob: BrowserTabs
) -> None:
    """Over two nodes behind a proxy that takes turns; the worker is killed, and the nodes are restarted in between."""
    tab = alice(cluster.app_url("/relayed?a=1"))
    url, session_id = tab.page.url, tab.session_id()
    assert session_id in url
    assert "?a=1&" in url
    value = move(tab, 0.5)

    tab.page.reload()
    shows(tab, value)
    assert tab.page.url == url

    tab.page.goto("about:blank")
    tab.page.go_back()
    shows(tab, value)

    tab.page.goto(cluster.app_url("/relayed?b=2"))
    tab.wait_idle()
    other = tab.session_id()
    assert other != session_id
    others = move(tab, 0.3)
    tab.page.go_back()
    shows(tab, value)
    tab.page.go_forward()
    shows(tab, others)
    assert tab.session_id() == other
    tab.page.go_back()
    shows(tab, value)
    assert tab.session_id() == session_id

    duplicate = alice(url)
    shows(duplicate, value)
    value = move(duplicate, 0.8)
    shows(tab, value)

    theirs = bob(url)
    assert theirs.session_id() != session_id
    assert theirs.page.url != url
    assert theirs.value("slider", "value") == 0

    for opened in (tab, duplicate, theirs):
        opened.page.goto("about:blank")
    owner = cluster.owner(session_id)
    owner.node.kill(owner.pid)
    tab.page.goto(url)
    shows(tab, value)
    assert tab.session_id() == session_id

    for node in cluster.nodes:
        tab.page.goto("about:blank")
        assert node.stop() == 0
        node.start_again(workers=2)
        tab.page.goto(url)
        shows(tab, value)
        assert tab.session_id() == session_id
    assert move(tab, 0.2) < value
