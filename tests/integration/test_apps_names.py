"""Apps whose files have names that URLs do not show as they are, on two nodes of two workers, below such a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote, urljoin

import pytest
from bokeh.client import pull_session as stock_pull_session
from bokeh.embed import server_document
from support.cluster import Cluster, session_of
from support.fetch import fetch
from support.node import APPS, Node
from support.patience import run
from support.wire import Viewer, page_token, token_of

import aperture.client

NAMES = ("my app", "Übersicht", "a[1]", "c+d", "v1.2", "50%", "what?", "x#y", "a&b", "a%20b", "(p) 'q'")
FOLDER = "data v2.0"
PREFIX = "/mein%20Pr%C3%A4fix"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Every name is that of the same app; the folder has a static file as well."""
    place = tmp_path_factory.mktemp("named apps")
    source = (APPS / "relayed.py").read_text()
    files = [place / f"{name}.py" for name in NAMES]
    folder = place / FOLDER
    (folder / "static").mkdir(parents=True)
    (folder / "static" / "größe [2].css").write_text("a {}")
    for file in (*files, folder / "main.py"):
        file.write_text(source)
    with Cluster(*files, folder, options=["--prefix", "mein Präfix"]) as cluster:
        yield cluster


def url_of(cluster: Cluster | Node, name: str) -> str:
    return f"{cluster.url}{PREFIX}/{quote(name, safe='')}"


@pytest.mark.parametrize("name", [*NAMES, FOLDER])
def test_a_session_is_served_on_both_nodes(cluster: Cluster, name: str) -> None:
    """The page comes from one, and its websocket goes through the other: what one viewer sets, the other sees."""
    here, there = cluster.nodes
    token = page_token(url_of(here, name))

    async def scenario() -> None:
        urls = ["ws" + url_of(node, name).removeprefix("http") + "/ws" for node in (here, there)]
        async with Viewer.open(urls[0], token) as first, Viewer.open(urls[1], token) as second:
            await first.pull()
            await second.pull()
            await first.set("slider", "value", 7)
            await second.wait_for_value("slider", "value", 7)

    run(scenario())
    assert cluster.owner(session_of(token)).node is here
    assert cluster.owner(session_of(token)).row["app"] == f"/{name}"


def test_the_index_links_to_every_app(cluster: Cluster) -> None:
    """Its links lead to pages, and show the names."""
    index = fetch(f"{cluster.url}{PREFIX}/")
    links = dict(re.findall(r'<a href="([^"]*)">([^<]*)</a>', index.text))
    assert {unescape(text) for text in links.values()} == {*NAMES, FOLDER}
    for link in links:
        assert link == unescape(link)
        assert fetch(urljoin(cluster.url, link), "HEAD").status == 200


def test_the_lines_with_the_addresses_are_links(cluster: Cluster) -> None:
    """A terminal takes what ends at a blank for one."""
    for node in cluster.nodes:
        assert len(node.app_urls) == len(NAMES) + 1
        for url in node.app_urls:
            assert fetch(url, "HEAD").status == 200


def test_a_dot_stands_for_nothing_else(cluster: Cluster) -> None:
    """`v1.2` is not `v1x2`."""
    assert fetch(url_of(cluster, "v1x2")).status == 404


def test_static_files_have_such_names_too(cluster: Cluster) -> None:
    """In a folder with such a name, and nothing outside of it is served."""
    static = url_of(cluster, FOLDER) + "/static/"
    answer = fetch(static + quote("größe [2].css"))
    assert (answer.status, answer.text) == (200, "a {}")
    for outside in ("../main.py", "%2e%2e/main.py", "%2e%2e%2fmain.py", "..%2Fmain.py", "%2fetc%2fpasswd"):
        assert fetch(static + outside).status in (403, 404)


@pytest.mark.parametrize("name", [*NAMES, FOLDER])
def test_embedding_names_a_websocket_that_is_there(cluster: Cluster, name: str) -> None:
    """What `server_document` makes of the app's URL leads to a script, and the script to the app's websocket."""
    (script,) = re.findall(r'"(http[^"]*/autoload\.js[^"]*)"', server_document(url_of(cluster, name)))
    answer = fetch(script)
    assert answer.status == 200
    (app_path,) = re.findall(r'embed_items\(docs_json, render_items, "([^"]*)"', answer.text)
    token = token_of(answer.text)

    async def scenario() -> bool:
        socket = f"ws{cluster.url.removeprefix('http')}{app_path}/ws"
        async with Viewer.open(socket, token) as viewer:
            return bool((await viewer.pull()).roots)

    assert run(scenario())


def test_clients_take_the_address_plain_or_quoted(cluster: Cluster) -> None:
    """Ours takes both; Bokeh's sends what it is given."""
    plain = f"{cluster.url}/mein Präfix/Übersicht"
    for address in (plain, url_of(cluster, "Übersicht")):
        with aperture.client.pull_session(url=address) as session:
            assert session.document.get_model_by_name("slider") is not None
    stock = stock_pull_session(url=url_of(cluster, "my app"))
    assert stock.document.get_model_by_name("slider") is not None
    stock.close()


def test_a_name_that_is_no_text_is_refused_at_the_start(tmp_path: Path) -> None:
    """It would break log lines, and the keys in Redis."""
    file = tmp_path / "a\tb.py"
    file.write_text("")
    with Node(file, wait=False) as node:
        assert node.wait() == 2
        assert "not plain text" in node.log()
