"""What the admin endpoints answer, without a socket: readiness, lists, commands, tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPServerRequest, RequestStartLine, ResponseStartLine

from aperture.config.settings import Settings
from aperture.gateway.admin.endpoints import ROWS_PER_WRITE, admin_application
from aperture.gateway.front.workers import Elsewhere, Survey
from aperture.wire.accounts import Command, Load, Outcome, SessionRow
from aperture.wire.node_messages import LoadReport

IDLE = LoadReport(Load(0, 0, 0.0, 0), 0)


class Table:
    """The last reports of workers 0 and 1."""

    def __init__(self) -> None:
        self.reports: dict[int, LoadReport] = {0: IDLE, 1: IDLE}

    @property
    def up(self) -> Sequence[int]:
        return list(self.reports)

    def last_report(self, worker: int) -> LoadReport | None:
        return self.reports.get(worker)


class Workers:
    """Two workers with these sessions, which answer at once."""

    def __init__(self, sessions: Sequence[SessionRow] = ()) -> None:
        self.draining = False
        self.workers = range(2)
        self.pids = {0: 71, 1: 72}
        self.table = Table()
        self.commands: list[Command] = []
        self._sessions = list(sessions)

    def overdue(self) -> dict[int, float]:
        return dict.fromkeys(self.table.up, 0.0)

    async def ask(self, workers: Iterable[int], deadline: float) -> Survey:
        return Survey(1, set(), sessions={0: self._sessions, 1: []})

    async def ask_elsewhere(self, prefix: str, deadline: float) -> Elsewhere:
        return Elsewhere(away=True)

    async def execute(self, worker: int | str, command: Command, deadline: float) -> Outcome | None:
        self.commands.append(command)
        return Outcome(200, "done")


class Answer(HTTPConnection):
    """A connection that keeps what it is written."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = HTTPHeaders()
        self.writes: list[bytes] = []
        self.finished = asyncio.Event()

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> asyncio.Future[None]:
        assert isinstance(start_line, ResponseStartLine)
        self.status, self.headers = start_line.code, headers
        return self.write(chunk or b"")

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        self.writes.append(chunk)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written

    def finish(self) -> None:
        self.finished.set()

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """No-op: this connection stays."""

    @property
    def text(self) -> str:
        return b"".join(self.writes).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(workers: Workers, uri: str, method: str = "GET", *, settings: Settings | None = None, **headers: str) -> Answer:
    """The answer to one request; headers with underscores for hyphens."""

    async def scenario() -> Answer:
        application = admin_application(workers, 70, settings or Settings(node="here"))
        named = HTTPHeaders({"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}})
        answer = Answer()
        request = HTTPServerRequest(
            start_line=RequestStartLine(method, uri, "HTTP/1.1"), headers=named, connection=answer
        )
        request.body = b""
        application(request)
        await answer.finished.wait()
        return answer

    return asyncio.run(scenario())


def session(name: str) -> SessionRow:
    return SessionRow(name, "/app", 1, 2, 0, 3.0)


def test_a_node_is_ready_when_nothing_speaks_against_it() -> None:
    """Each condition is named; the answer is never cached."""
    workers = Workers()
    assert (ask(workers, "/readyz").status, ask(workers, "/readyz").text) == (200, "ok")
    verbose = ask(workers, "/readyz?verbose")
    assert verbose.text.splitlines() == [
        "[+] worker-0",
        "[+] worker-1",
        "[+] bus",
        "[+] bus-memory",
        "[+] heartbeat",
        "[+] not-draining",
        "ready",
    ]
    assert verbose.headers["Cache-Control"] == "no-store"


def _is_draining(workers: Workers) -> None:
    workers.draining = True


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (lambda workers: workers.table.reports.pop(1), "[-] worker-1: it has not booted"),
        (
            lambda workers: workers.table.reports.update({1: LoadReport(Load(0, 0, 0.0, 0), 0, bus_up=False)}),
            "[-] bus: cannot be",
        ),
        (
            lambda workers: workers.table.reports.update({0: LoadReport(Load(0, 0, 0.0, 0), 0, bus_full=True)}),
            "[-] bus-memory: ",
        ),
        (
            lambda workers: workers.table.reports.update({0: LoadReport(Load(0, 0, 0.0, 0), 0, heartbeat_fails=True)}),
            "[-] heartbeat: that of worker 0 fails",
        ),
        (_is_draining, "[-] not-draining: the node is stopping"),
    ],
)
def test_a_node_that_is_not_ready_says_why(trouble: Callable[[Workers], object], line: str) -> None:
    """With a 503, to a load balancer without words; and it is alive all the same."""
    workers = Workers()
    trouble(workers)
    assert (ask(workers, "/readyz").status, ask(workers, "/readyz").text) == (503, "not ready")
    assert line in ask(workers, "/readyz?verbose").text
    assert ask(workers, "/livez").text == "ok"


def test_sessions_are_listed_without_the_secret_part_of_their_ids() -> None:
    """Long lists in several writes, as one JSON text."""
    workers = Workers([session(f"{number:08}-secret") for number in range(ROWS_PER_WRITE + 3)])
    answer = ask(workers, "/sessions")
    listed = answer.json
    assert len(listed["sessions"]) == ROWS_PER_WRITE + 3
    assert listed["sessions"][0]["id"] == "00000000"
    assert (listed["sessions"][0]["node"], listed["sessions"][0]["pid"]) == ("here", 71)
    assert listed["missing"] == []
    assert "secret" not in answer.text
    assert len([write for write in answer.writes if write]) > 1


def test_workers_are_listed_as_last_reported() -> None:
    """With the processes that are no workers; over the cluster with what could not be asked."""
    workers = Workers()
    workers.table.reports[1] = LoadReport(Load(3, 5, 0.25, 1000), 0)
    own = ask(workers, "/workers").json
    assert [(row["worker"], row["sessions"], row["event_loop_lag_seconds"]) for row in own["workers"]] == [
        (0, 0, 0.0),
        (1, 3, 0.25),
    ]
    assert own["supervisor"] == {"pid": 70}
    clustered = Settings(node="here", redis_url="redis://localhost")
    assert ask(workers, "/workers?cluster=1", settings=clustered).json["bus"] == "away"
    assert ask(workers, "/sessions?cluster=yes", settings=clustered).json["truncated"] is False


@pytest.mark.parametrize(
    ("uri", "status", "to"),
    [
        ("/sessions/abcdefgh/end", 200, None),
        ("/sessions/abcdefgh/move?to=1", 200, 1),
        ("/sessions/abcdefgh/end?to=1", 400, None),
        ("/sessions/abcdefgh/move?to=-1", 400, None),
        ("/sessions/abcdefgh/move?to=10000", 400, None),
        ("/sessions/abc/end", 400, None),
        ("/sessions/zzzzzzzz/end", 404, None),
        ("/sessions/abcdefgh/sing", 404, None),
    ],
)
def test_commands_are_checked_before_a_worker_gets_them(uri: str, status: int, to: int | None) -> None:
    """What to do, with which session, and where to."""
    workers = Workers([session("abcdefgh-secret")])
    answer = ask(workers, uri, "POST", X_Aperture="1")
    assert (answer.status, answer.json["ok"]) == (status, status == 200)
    assert [command.to for command in workers.commands] == ([to] if status == 200 else [])


def test_a_command_is_no_get_and_no_cross_site_request() -> None:
    """A page in a browser can send neither the header nor a token."""
    workers = Workers([session("abcdefgh-secret")])
    answer = ask(workers, "/sessions/abcdefgh/end")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert ask(workers, "/sessions/abcdefgh/end", "POST").status == 403
    assert ask(workers, "/sessions", Host="rebound.example").status == 403
    assert workers.commands == []


def test_a_token_is_asked_for_except_by_probes() -> None:
    """They have none, and learn nothing that is secret."""
    guarded = Settings(admin_token="the token")
    workers = Workers()
    refused = ask(workers, "/sessions", settings=guarded)
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, 'Bearer realm="aperture"')
    assert ask(workers, "/sessions", settings=guarded, Authorization="Bearer the token").status == 200
    assert ask(workers, "/metrics", settings=guarded).status == 401
    assert ask(workers, "/livez", settings=guarded).status == 200
    assert ask(workers, "/readyz", settings=guarded).status == 200


def test_what_is_not_there_is_said_in_json() -> None:
    """Also metrics that are off, in Prometheus's plain text."""
    answer = ask(Workers(), "/nothing")
    assert (answer.status, answer.json["message"]) == (404, "there is no such endpoint")
    assert ask(Workers(), "/metrics").status == 404
    assert ask(Workers(), "/livez", "HEAD").status == 200
