"""What runs inside a session: widget callbacks, timed callbacks, holds, work without the lock, threads, errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest
from support.node import BOTH, Node, StockNode, kind_name
from support.patience import run
from support.wire import Viewer, WireMessage, page_token

APPS = (
    "arrays.py",
    "ticking.py",
    "holding.py",
    "unlocked.py",
    "threads.py",
    "raising.py",
    "streaming.py",
    "newmodel.py",
)


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def node(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """All small apps, on stock Bokeh and on two workers of ours."""
    options = ["--num-procs", "2"] if request.param is Node else []
    with request.param(*APPS, options=options) as node:
        yield node


@pytest.fixture(scope="module")
def ours() -> Iterator[Node]:
    """Two workers of ours, for what stock Bokeh gets wrong."""
    with Node("raising.py", "newmodel.py", "arrays.py", options=["--num-procs", "2"]) as node:
        yield node


def with_viewer(node: StockNode, app: str, scenario: Callable[[Viewer], Awaitable[None]], query: str = "") -> None:
    """Run a scenario with a viewer that has pulled the document of a new session."""

    async def connected() -> None:
        async with Viewer.open(node.ws_url(app), page_token(node.app_url(app) + query)) as viewer:
            await viewer.pull()
            await scenario(viewer)

    run(connected())


def changes(messages: list[WireMessage], viewer: Viewer, name: str) -> list[object]:
    """The values that a named model's attributes were given in these messages, in order."""
    model = viewer.model(name).id
    events = [event for message in messages if message.msgtype == "PATCH-DOC" for event in message.events]
    return [event["new"] for event in events if event["kind"] == "ModelChanged" and event["model"]["id"] == model]


def test_a_callbacks_result_comes_before_the_ok(node: StockNode) -> None:
    """The sender has the new data, as binary buffers, by the time that its change is acknowledged."""

    async def scenario(viewer: Viewer) -> None:
        before = viewer.model("source").data["y"]
        answer = await viewer.set("slider", "value", 3)
        assert answer.msgtype == "OK"
        assert (viewer.model("source").data["y"] == 3 * before).all()
        patches = [message for message in viewer.received if message.msgtype == "PATCH-DOC"]
        assert any(message.buffers for message in patches)

    with_viewer(node, "/arrays", scenario)


def test_timed_callbacks_run(node: StockNode) -> None:
    """Next-tick and timeout callbacks come once, the periodic one again and again until it is removed."""

    async def scenario(viewer: Viewer) -> None:
        while viewer.value("timeout", "text") != "came" or viewer.value("next_tick", "text") != "came":
            await viewer.next_message()
        seen = int(viewer.value("periodic", "text"))
        while int(viewer.value("periodic", "text")) < seen + 3:
            await viewer.next_message()
        assert (await viewer.set("stop", "value", 1)).msgtype == "OK"
        stopped = viewer.value("periodic", "text")
        assert (await viewer.request("SERVER-INFO-REQ", {})).msgtype == "SERVER-INFO-REPLY"
        await viewer.pull()
        assert viewer.value("periodic", "text") == stopped

    with_viewer(node, "/ticking", scenario)


def test_a_stream_keeps_its_rollover(node: StockNode) -> None:
    """A viewer that applies the stream's patches has the last twenty rows, without a hole."""

    async def scenario(viewer: Viewer) -> None:
        rows: list[int] = []
        while len(rows) < 20 or rows[0] == 0:
            await viewer.next_message()
            rows = [int(n) for n in viewer.model("source").data["n"]]
        assert rows == list(range(rows[0], rows[0] + 20))
        assert [int(n) for n in viewer.model("source").data["square"]] == [n * n for n in rows]

    with_viewer(node, "/streaming", scenario)


def test_hold_combine_sends_the_last_value_of_each(node: StockNode) -> None:
    """Of many changes of one attribute under `hold("combine")` only the last is sent."""

    async def scenario(viewer: Viewer) -> None:
        assert (await viewer.set("slider", "value", 6)).msgtype == "OK"
        assert changes(viewer.received, viewer, "first") == ["6"]
        assert changes(viewer.received, viewer, "second") == ["60"]

    with_viewer(node, "/holding", scenario, "?hold=combine")


def test_hold_collect_ends_at_the_last_value(node: StockNode) -> None:
    """Under `hold("collect")` nothing is lost: the values come in order, and the last one is the last."""

    async def scenario(viewer: Viewer) -> None:
        assert (await viewer.set("slider", "value", 6)).msgtype == "OK"
        sent = changes(viewer.received, viewer, "first")
        assert sent == sorted(map(str, sent))
        assert sent[-1] == "6"
        assert viewer.value("second", "text") == "60"

    with_viewer(node, "/holding", scenario, "?hold=collect")


def test_work_without_the_lock_lets_others_in(node: StockNode) -> None:
    """An unlocked callback that waits for another change does not keep that change from happening."""

    async def scenario(viewer: Viewer) -> None:
        assert (await viewer.set("start", "value", 1)).msgtype == "OK"
        await viewer.wait_for_value("status", "text", "working")
        assert (await viewer.set("other", "value", 4)).msgtype == "OK"
        await viewer.wait_for_value("mirror", "text", "4")
        await viewer.wait_for_value("status", "text", "done")

    with_viewer(node, "/unlocked", scenario)


def test_threads_reach_the_document_through_the_next_tick(node: StockNode) -> None:
    """Eight threads each count one up; none of it is lost."""

    async def scenario(viewer: Viewer) -> None:
        assert (await viewer.set("start", "value", 1)).msgtype == "OK"
        await viewer.wait_for_value("finished", "text", "8")

    with_viewer(node, "/threads", scenario)


def test_a_callback_that_raises_is_answered_with_its_error(node: StockNode) -> None:
    """The sender learns of it, and the session goes on."""

    async def scenario(viewer: Viewer) -> None:
        answer = await viewer.set("slider", "value", 5)
        assert answer.msgtype == "ERROR"
        assert "five is right out" in json_text(answer)
        assert (await viewer.set("slider", "value", 6)).msgtype == "OK"
        assert viewer.value("seen", "text") == "saw 6"

    with_viewer(node, "/raising", scenario)
    node.wait_for_log("five is right out")


def json_text(message: WireMessage) -> str:
    return f"{message.content.get('text')} {message.content.get('traceback')}"


def two_viewers(node: Node, app: str, scenario: Callable[[Viewer, Viewer], Awaitable[None]]) -> None:
    """Run a scenario with two viewers of one new session, both of which have pulled."""

    async def connected() -> None:
        token = page_token(node.app_url(app))
        async with Viewer.open(node.ws_url(app), token) as one, Viewer.open(node.ws_url(app), token) as other:
            await one.pull()
            await other.pull()
            await scenario(one, other)

    run(connected())


def test_changes_before_a_raise_reach_every_viewer(ours: Node) -> None:
    """What a callback did change before it raised is in the document, so it must be on every screen."""

    async def scenario(one: Viewer, other: Viewer) -> None:
        assert (await one.set("slider", "value", 5)).msgtype == "ERROR"
        assert one.value("seen", "text") == "saw 5"
        await other.wait_for_value("seen", "text", "saw 5")
        await other.wait_for_value("slider", "value", 5)
        assert (await other.set("slider", "value", 2)).msgtype == "OK"
        await one.wait_for_value("seen", "text", "saw 2")

    two_viewers(ours, "/raising", scenario)


def test_new_models_come_whole_to_every_viewer(ours: Node) -> None:
    """A renderer that a callback adds can be used by both viewers, with its source and glyph."""

    async def scenario(one: Viewer, other: Viewer) -> None:
        assert (await one.set("slider", "value", 4)).msgtype == "OK"
        await other.wait_for_value("slider", "value", 4)
        for viewer in (one, other):
            assert viewer.value("text4", "text") == "the slider was at 4"
            assert viewer.model("line4").data_source.data["y"] == [4, 4]

    two_viewers(ours, "/newmodel", scenario)


def test_a_change_comes_before_what_it_caused(ours: Node) -> None:
    """The other viewer sees the slider move no later than the data move."""

    async def scenario(one: Viewer, other: Viewer) -> None:
        assert (await one.set("slider", "value", 3)).msgtype == "OK"
        source, slider = other.model("source").id, other.model("slider").id
        order: list[str] = []
        while not {source, slider} <= set(order):
            message = await other.next_message()
            order += [event["model"]["id"] for event in message.events]
        assert order.index(slider) < order.index(source)

    two_viewers(ours, "/arrays", scenario)
