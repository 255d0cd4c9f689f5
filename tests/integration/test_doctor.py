"""`aperture doctor` as a user runs it: servers that are well, that are wrong, and that are none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.doctor import examine
from support.node import EXAMPLES, Node, StockNode
from support.patience import run, seconds
from support.proxy import Nginx
from support.redis import free_port
from support.rogue import Conversation, rogue_server
from support.wire import page_token

SLIDERS = EXAMPLES / "apps" / "sliders.py"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(SLIDERS, options=["--num-procs", "2"]) as node:
        yield node


@pytest.mark.parametrize("kind", [Node, StockNode])
def test_a_healthy_server_passes_every_check(kind: type[StockNode]) -> None:
    """Aperture and `bokeh serve` alike."""
    with kind(SLIDERS) as server:
        code, findings = examine(server.app_url("/sliders"), "--patience", "0.3")
    assert [finding["verdict"] for finding in findings.values()] == ["ok"] * 8, findings
    assert code == 0


def test_a_server_with_session_urls_passes_every_check() -> None:
    """Each of its pages is a redirect first."""
    with Node(SLIDERS, options=["--num-procs", "2", "--session-urls"]) as server:
        code, findings = examine(server.app_url("/sliders") + "?a=1", "--patience", "0.3")
    assert [finding["verdict"] for finding in findings.values()] == ["ok"] * 9, findings
    assert "session URLs" in findings
    assert code == 0


@pytest.mark.parametrize("resources", ["cdn", "inline"])
def test_a_page_without_scripts_of_its_server_passes(resources: str) -> None:
    """`BOKEH_RESOURCES`: the scripts are elsewhere or in the page, and no page is taken for one."""
    with Node(SLIDERS, env={"BOKEH_RESOURCES": resources}) as server:
        code, findings = examine(server.app_url("/sliders"))
    assert {finding["verdict"] for finding in findings.values()} == {"ok"}, findings
    assert ("cdn.bokeh.org" in findings["addresses"]["what"]) is (resources == "cdn")
    assert code == 0


def test_an_app_that_is_not_there_is_named_with_those_that_are(node: Node) -> None:
    """The path is wrong: the index is asked for the right ones."""
    code, findings = examine(node.app_url("/slider"))
    assert code == 1
    assert "knows no app" in findings["page"]["what"]


def test_a_site_that_may_not_embed_is_told_so(node: Node) -> None:
    """`--origin` names a page of another site."""
    code, findings = examine(node.app_url("/sliders"), "--origin", "https://site.example")
    assert code == 1
    assert "--allow-websocket-origin site.example" in findings["origin"]["mend"]


def test_servers_that_know_nothing_of_each_other_are_found_out() -> None:
    """A round-robin proxy over two `bokeh serve`: websockets stray from their pages, and the app runs twice."""
    with StockNode(SLIDERS) as one, StockNode(SLIDERS) as other:
        page_token(one.app_url("/sliders"))  # from here on the two count their models differently
        with Nginx([f"127.0.0.1:{server.port}" for server in (one, other)]) as proxy:
            code, findings = examine(f"{proxy.url}/sliders")
    assert code == 1
    assert "--redis-url" in findings["sessions"]["mend"], findings


async def _nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\xff" * 500 + b"\r\n\r\n")


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def _plain_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello")


@pytest.mark.parametrize("converse", [_nothing, _garbage, _hang_up, _plain_page])
def test_what_is_no_server_is_called_so_in_time(converse: Conversation) -> None:
    """Silence, garbage, a closed connection and a page of another server: one finding each, and nothing hangs."""

    async def scenario() -> tuple[int, dict[str, dict[str, str]]]:
        async with rogue_server(converse) as url:
            return await asyncio.to_thread(examine, url, "--timeout", "2")

    code, findings = run(scenario())
    assert code == 1
    assert len(findings) == 1
    (finding,) = findings.values()
    assert finding["verdict"] == "problem"
    assert finding["mend"]


def test_nobody_there_is_said_so() -> None:
    """A closed port, and a server without TLS asked for TLS."""
    code, findings = examine(f"http://127.0.0.1:{free_port()}/app")
    assert code == 1
    assert "nothing listens" in findings["connection"]["what"]


def test_plain_http_on_the_port_is_not_taken_for_tls(node: Node) -> None:
    """`https:` to a server without a certificate."""
    code, findings = examine(node.app_url("/sliders").replace("http:", "https:"))
    assert code == 1
    assert "does not speak TLS" in findings["connection"]["what"]


@pytest.mark.parametrize("arguments", [["ws://x/app"], ["--timeout", "0", "http://x"], ["--header", "x", "http://x"]])
def test_what_cannot_be_examined_is_refused(arguments: list[str]) -> None:
    """Exit code 2 and a sentence, without a traceback."""
    command = [sys.executable, "-m", "aperture", "doctor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(30), check=False)
    assert done.returncode == 2
    assert "aperture: error:" in done.stderr
    assert "Traceback" not in done.stderr
