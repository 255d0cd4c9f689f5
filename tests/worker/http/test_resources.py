"""Where pages load BokehJS from, and asset folders that all workers know."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from bokeh.embed.bundle import Script, bundle_for_objs_and_resources, extension_dirs
from support.peers import in_loop

from aperture.worker.http import resources as module
from aperture.worker.http.resources import Extensions, PageResources, versioned


@pytest.fixture
def dirs() -> Iterator[dict[str, Path]]:
    """Bokeh's own table of asset folders, empty, and as it was afterwards."""
    before = dict(extension_dirs)
    extension_dirs.clear()
    yield extension_dirs
    extension_dirs.clear()
    extension_dirs.update(before)


def urls_of(resources: PageResources, server_url: str | None = None, *, with_resources: bool = True) -> list[str]:
    return [
        str(getattr(url, "url", url)) for url in resources.bundle(server_url, with_resources=with_resources).js_files
    ]


def test_pages_load_from_their_own_server() -> None:
    """By path only, under the prefix, with a hash that lets browsers keep the files."""
    for url in urls_of(PageResources("/prefix")):
        assert url.startswith("/prefix/static/js/bokeh")
        assert "?v=" in url


def test_pages_elsewhere_load_from_this_server() -> None:
    """By its whole URL, which the query or an option names."""
    assert all(url.startswith("http://here:5006/p/static/") for url in urls_of(PageResources("/p"), "http://here:5006"))
    absolute = PageResources("/p", "https://public.example.org")
    assert all(url.startswith("https://public.example.org/p/static/") for url in urls_of(absolute))


def test_resources_may_be_left_out() -> None:
    """The embedding page has them already."""
    assert urls_of(PageResources(""), with_resources=False) == []


def test_a_bundle_belongs_to_its_page() -> None:
    """What one page adds is in no other's, though the work is done once."""
    resources = PageResources("")
    first = resources.bundle()
    before = len(first.js_raw)
    first.add(Script("one page's own"))
    assert len(resources.bundle().js_raw) == before


def test_bundles_are_made_once_per_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """And forgotten when strangers name ever more servers, or when new classes appear."""
    made: list[object] = []
    original = bundle_for_objs_and_resources

    def counting(objs: None, wanted: object) -> object:
        made.append(wanted)
        return original(objs, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "bundle_for_objs_and_resources", counting)
    resources = PageResources("")
    for _ in range(3):
        resources.bundle()
        resources.bundle("http://one")
    assert len(made) == 2
    for number in range(200):
        resources.bundle(f"http://server-{number}")
    assert len(resources._rendered) <= module._CACHED_BUNDLES + 1


def test_a_file_that_is_not_there_has_no_version() -> None:
    """Its path stays as it is."""
    assert versioned("js/no-such-file.js") == "js/no-such-file.js"
    assert versioned("js/bokeh.min.js").startswith("js/bokeh.min.js?v=")


class Gateway:
    """Keeps what all workers have sent."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.calls = 0

    async def share(self, dirs: dict[str, str]) -> dict[str, str]:
        self.calls += 1
        self.known.update(dirs)
        return dict(self.known)


@in_loop
async def test_what_one_worker_renders_another_can_serve(dirs: dict[str, Path]) -> None:
    """Sent before the page leaves the worker; asked for when a folder is not known."""
    gateway = Gateway()
    renderer, server = Extensions(gateway.share), Extensions(gateway.share)
    dirs["panel"] = Path("/site-packages/panel/dist")
    await renderer.publish()
    assert gateway.known == {"panel": "/site-packages/panel/dist"}
    dirs.clear()
    assert await server.folder("panel") == Path("/site-packages/panel/dist")
    assert await server.folder("absent") is None


@in_loop
async def test_only_news_is_told(dirs: dict[str, Path]) -> None:
    """A page that brings nothing new costs no exchange."""
    gateway = Gateway()
    extensions = Extensions(gateway.share)
    await extensions.publish()
    assert gateway.calls == 0
    dirs["panel"] = Path("/panel")
    for _ in range(3):
        await extensions.publish()
    assert gateway.calls == 1
    assert await extensions.folder("panel") == Path("/panel")
    assert gateway.calls == 1


@in_loop
async def test_alone_a_worker_knows_what_it_knows(dirs: dict[str, Path]) -> None:
    """There is no gateway to ask."""
    extensions = Extensions()
    dirs["panel"] = Path("/panel")
    await extensions.publish()
    assert await extensions.folder("panel") == Path("/panel")
    assert await extensions.folder("absent") is None


@in_loop
async def test_a_gateway_that_does_not_answer_is_told_again(
    dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page goes out all the same."""
    monkeypatch.setattr(module, "_EXCHANGE_TIMEOUT", 0)
    gateway = Gateway()
    is_up = False

    async def share(known: dict[str, str]) -> dict[str, str]:
        if not is_up:
            await asyncio.Event().wait()
        return await gateway.share(known)

    extensions = Extensions(share)
    dirs["panel"] = Path("/panel")
    await extensions.publish()
    assert gateway.calls == 0
    is_up = True
    monkeypatch.setattr(module, "_EXCHANGE_TIMEOUT", 60)
    await extensions.publish()
    assert gateway.calls == 1
