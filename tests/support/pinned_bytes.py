"""One or more of every message between our processes, each beside its bytes."""

from __future__ import annotations

from aperture.wire import envelopes, node_messages
from aperture.wire.accounts import AccountPart, Command, Load, Outcome, SessionRow, WorkerRow
from aperture.wire.envelopes import Envelope, Relayed
from aperture.wire.node_figures import NodeFigures, ProcessFigures
from aperture.wire.node_messages import NodeMessage

__all__ = ["BUS", "NODE"]

SESSION = SessionRow("id", "/app", 9, 2, 1, 1.5)
PART = AccountPart(WorkerRow("node/0/x", 12, Load(3, 4, 0.25, 1024)), (SESSION,), truncated=False)

NODE: list[tuple[NodeMessage, str]] = [
    (
        node_messages.Adopt(3, b"GET / HTTP/1.1\r\n\r\n", ("10.0.0.1", 5000), True, "id", 7),
        "02970003c412474554202f20485454502f312e310d0a0d0a92a831302e302e302e31cd1388c3a2696407",
    ),
    (node_messages.HandBack(b"GET", None, False), "029401c403474554c0c2"),
    (node_messages.Hello(1, 2, 300), "0294020102cd012c"),
    (
        node_messages.LoadReport(
            Load(4, 5, 0.25, 1024), 6, bus_up=False, exhausted=True, bus_full=True, heartbeat_fails=True
        ),
        "029703940405cb3fd0000000000000cd040006c2c3c3c3",
    ),
    (node_messages.Claimed(("a", "b")), "02920492a161a162"),
    (node_messages.Released(("a",)), "02920591a161"),
    (node_messages.Describe(8), "02920608"),
    (
        node_messages.SessionsAre(8, (SESSION,), last=True),
        "029407089196a26964a42f617070090201cb3ff8000000000000c3",
    ),
    (node_messages.Extensions(1, {"name": b"/dir"}), "0293080181a46e616d65c4042f646972"),
    (node_messages.ExtensionsAre(1, {"name": b"/dir"}), "0293090181a46e616d65c4042f646972"),
    (node_messages.WorkerDown(1, 2), "02930a0102"),
    (node_messages.NodeReady(8080), "02920bcd1f90"),
    (node_messages.Drain(closing=True), "02920cc3"),
    (node_messages.Crowded("id", crowded=True), "02930da26964c3"),
    (node_messages.Draining(), "02910e"),
    (node_messages.Others(2, "ab"), "02930f02a26162"),
    (
        node_messages.OthersAre(2, "node/0/x", PART),
        "02941002a86e6f64652f302f789393a86e6f64652f302f780c940304cb3fd0000000000000cd04009196a26964a42f617070090201cb3ff8000000000000c2",
    ),
    (node_messages.OthersAre(2, "node/0/x", None), "02941002a86e6f64652f302f78c0"),
    (node_messages.OthersEnd(2, bus_up=True), "02931402c3"),
    (
        node_messages.Execute(3, "node/0/x", Command("move", "ab", "/app", None)),
        "02941103a86e6f64652f302f7894a46d6f7665a26162a42f617070c0",
    ),
    (node_messages.Executed(3, Outcome(200, "moved")), "0293120392ccc8a56d6f766564"),
    (node_messages.Moved("id", 2), "029313a2696402"),
]

BUS: list[tuple[Envelope, str]] = [
    (envelopes.Patches(5, 6, (Relayed(b"f", {"c": b"v"}, {"c": 7}),)), "940005069193c4016681a163c4017681a16307"),
    (envelopes.Probe(5, 6), "93010506"),
    (envelopes.SessionEnded(5, 1012, "restart"), "940205cd03f4a772657374617274"),
    (
        envelopes.Join("/app\tid", "edge", "c", "token", from_browser=True),
        "9603a72f617070096964a465646765a163a5746f6b656ec3",
    ),
    (envelopes.Leave("/app\tid", "edge", "c", lost=True), "9504a72f617070096964a465646765a163c3"),
    (
        envelopes.FromClient("/app\tid", "edge", "c", 1, 2, ("text", b"bytes")),
        "9a05a72f617070096964a465646765a163010292a474657874c4056279746573a000a0",
    ),
    (
        envelopes.FromClient("/app\tid", "edge", "c", 1, 2, (), transfer="t", size=9, trace="trace"),
        "9a05a72f617070096964a465646765a163010290a17409a57472616365",
    ),
    (
        envelopes.Render("/app\tid", "edge", 4, "page", {"k": "v"}),
        "9806a72f617070096964a46564676504a47061676581a16ba176c0a0",
    ),
    (
        envelopes.Render("/app\tid", "edge", 4, "page", {}, "ann", "trace"),
        "9806a72f617070096964a46564676504a47061676580a3616e6ea57472616365",
    ),
    (envelopes.Reply("/app\tid", 5, "c", 1, 2, b"f", live=True), "9a07a72f61707009696405a1630102c40166c3a000"),
    (envelopes.Joined("/app\tid", "owner", "c", 5, 6, 7, 8), "9808a72f617070096964a56f776e6572a16305060708"),
    (envelopes.Rendered(4, ok=True, body=b"page"), "970904c3c40470616765a000c3"),
    (envelopes.Refused("/app\tid", "c", 4000, "why"), "950aa72f617070096964a163cd0fa0a3776879"),
    (envelopes.Inquire("asker", 1, "ab"), "940ba561736b657201a26162"),
    (
        envelopes.Account(1, PART, last=True),
        "940c019393a86e6f64652f302f780c940304cb3fd0000000000000cd04009196a26964a42f617070090201cb3ff8000000000000c2c3",
    ),
    (
        envelopes.CommandRequest("asker", 1, Command("end", "ab", "/app", 2)),
        "940da561736b65720194a3656e64a26162a42f61707002",
    ),
    (envelopes.CommandReply(1, Outcome(200, "ended")), "930e0192ccc8a5656e646564"),
    (
        envelopes.Reply("/app\tid", 5, "c", 1, 2, b"", live=True, transfer="t", size=9),
        "9a07a72f61707009696405a1630102c400c3a17409",
    ),
    (envelopes.Rendered(4, ok=True, body=b"", transfer="t", size=9), "970904c3c400a17409c3"),
    (envelopes.Stored(5, 6), "930f0506"),
    (envelopes.Question("asker", 4, "topic"), "9413a561736b657204a5746f706963"),
    (envelopes.Answer(4, b"body"), "931404c404626f6479"),
    (envelopes.ChunkRequest("asker", "t", 3), "9410a561736b6572a17403"),
    (envelopes.Chunk("t", 3, b"data"), "9411a17403c40464617461"),
    (
        envelopes.Figures(4, NodeFigures("node", (ProcessFigures("worker-0", 1.5, {("a_total", ("/app",)): 2.0}),))),
        "93120492a46e6f64659193a8776f726b65722d30cb3ff80000000000008192a7615f746f74616c91a42f617070cb4000000000000000",
    ),
]
