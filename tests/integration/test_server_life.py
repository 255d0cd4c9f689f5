"""A `Server` on an event loop that belongs to a program: how it starts, what runs beside it, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from bokeh.application import Application as App
from bokeh.application.handlers import DirectoryHandler, FunctionHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.client import pull_session
from bokeh.document import Document
from bokeh.embed import file_html, json_item
from bokeh.models.widgets import Div, Slider
from bokeh.plotting import figure
from bokeh.resources import INLINE
from bokeh.server.server import Server as StockServer
from prometheus_client import REGISTRY
from support.aside import BOTH as SERVERS
from support.aside import ServerAside, server_name
from support.fetch import fetch
from support.patience import run, seconds, wait_until
from support.redis import free_port
from support.wire import Viewer, page_token
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from aperture import Server
from aperture.errors import AppLoadError, BusUnavailable, SessionGone


def fill(document: Document) -> None:
    """An app."""
    slider = Slider(start=0, end=100, value=0, name="slider")
    document.add_root(slider)


class Diary(LifecycleHandler):
    """Hooks that write down that they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._on_server_loaded = lambda context: self.lines.append("loaded")
        self._on_server_unloaded = lambda context: self.lines.append("unloaded")
        self._on_session_created = lambda context: self.lines.append("created")
        self._on_session_destroyed = lambda context: self.lines.append("destroyed")


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello")


async def text_of(url: str) -> str:
    """The page, fetched on the running loop."""
    answer = await AsyncHTTPClient().fetch(HTTPRequest(url, request_timeout=seconds(20)), raise_error=False)
    return answer.body.decode()


async def token_at(url: str) -> str:
    return await asyncio.to_thread(page_token, url)


class TestOnARunningLoop:
    """`async with Server(...)`, and `start` in a coroutine."""

    def test_it_serves_inside_and_has_ended_behind(self) -> None:
        """Sessions end with their hooks, viewers are sent away with 1012, the port is free."""
        diary = Diary()

        async def scenario() -> int | None:
            async with Server({"/app": App(FunctionHandler(fill), diary)}, port=0) as server:
                url = f"http://localhost:{server.port}/app"
                async with Viewer.open(f"ws{url.removeprefix('http')}/ws", await token_at(url)) as viewer:
                    await viewer.pull()
                    assert (await viewer.set("slider", "value", 5)).msgtype == "OK"
                    (session,) = server.get_sessions()
                    slider: Any = session.document.get_model_by_name("slider")
                    assert slider.value == 5
                    server.stop()
                    server.stop()
                    code = await viewer.wait_closed()
            with pytest.raises(OSError):
                await asyncio.open_connection("localhost", server.port)
            with pytest.raises(RuntimeError, match="stopped"):
                server.start()
            assert server.get_sessions() == []
            return code

        assert run(scenario()) == 1012
        assert diary.lines == ["loaded", "created", "destroyed", "unloaded"]

    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    @pytest.mark.parametrize("end", ["stop", "unlisten"])
    @pytest.mark.parametrize("kind", SERVERS, ids=server_name)
    def test_the_port_is_free_when_it_has_been_given_up(
        self, kind: type, end: str, new_loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        """A notebook's cell that runs twice stops one server and makes the next on the same port, without a pause."""

        async def scenario() -> None:
            server = kind({"/first": fill}, port=0)
            server.start()
            for name in ("/second", "/third"):
                await text_of(f"http://localhost:{server.port}/metadata")
                getattr(server, end)()
                if end == "unlisten":
                    stopped.append(server)
                server = kind({name: fill}, port=server.port)
                server.start()
            assert f'"{name}"' in await text_of(f"http://localhost:{server.port}{name}/metadata")
            for one in (*stopped, server):
                one.stop()

        stopped: list[Any] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(asyncio.wait_for(scenario(), seconds(30)))

    def test_all_that_it_listens_on_is_free(self, tmp_path: Path) -> None:
        """The admin port and the unix socket as well, and when it is stopped before it has begun to start."""

        async def scenario() -> None:
            admin_port = free_port()
            for _ in range(3):
                server = Server(fill, unix_socket=tmp_path / "socket", admin_port=admin_port)
                server.start()
                server.stop(wait=False)
            async with Server(fill, unix_socket=tmp_path / "socket", admin_port=admin_port):
                assert "aperture_build_info" in await text_of(f"http://127.0.0.1:{admin_port}/metrics")

        run(scenario())

    def test_the_loop_is_named_either_way(self) -> None:
        """asyncio's loop does as well as Tornado's over it."""

        async def scenario() -> None:
            running = asyncio.get_running_loop()
            for loop in (running, IOLoop.current(), None):
                server = Server(fill, io_loop=loop, port=0)
                assert server.io_loop is IOLoop.current()
                server.start()
                assert "<html" in await text_of(f"http://localhost:{server.port}/")
                server.stop()
                await server.closed()

        run(scenario())

    def test_a_session_of_another_is_not_there(self) -> None:
        """And the error quotes no more of its id than a log may have."""

        async def scenario() -> None:
            async with Server(fill, port=0) as server:
                with pytest.raises(SessionGone, match="12345678") as refused:
                    server.get_session("/", "1234567890")
                assert "90" not in str(refused.value)

        run(scenario())

    def test_what_the_app_brings_along_may_be_broken(self, tmp_path: Path) -> None:
        """`async with` raises what kept the server from serving, and nothing is left listening."""
        folder = tmp_path / "app"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise RuntimeError('broken')")
        (folder / "main.py").write_text("")
        port = free_port()

        async def scenario() -> None:
            with pytest.raises(AppLoadError, match="broken"):
                async with Server(App(DirectoryHandler(filename=str(folder))), port=port):
                    pass
            async with Server(fill, port=port) as server:
                assert server.port == port

        run(scenario())

    def test_a_missing_import_is_found_at_once(self, tmp_path: Path) -> None:
        """By the constructor, with the app's own traceback."""
        folder = tmp_path / "app"
        folder.mkdir()
        (folder / "main.py").write_text("import not_there_at_all")
        with pytest.raises(AppLoadError, match="not_there_at_all"):
            Server(App(DirectoryHandler(filename=str(folder))), port=0)

    def test_a_redis_that_is_not_there(self) -> None:
        """A named error from `async with`; without it the server ends by itself and serves no request."""
        nowhere = f"redis://127.0.0.1:{free_port()}"

        async def scenario() -> None:
            with pytest.raises(BusUnavailable):
                async with Server(fill, port=0, redis_url=nowhere):
                    pass
            server = Server(fill, port=0, redis_url=nowhere)
            server.start()
            await server.closed()
            with pytest.raises(OSError):
                await asyncio.open_connection("localhost", server.port)

        run(scenario())

    def test_another_loops_server_cannot_be_entered(self) -> None:
        """It would be waited for where it does not run."""

        async def scenario(loop: IOLoop) -> None:
            server = Server(fill, io_loop=loop, port=0)
            with pytest.raises(RuntimeError, match="running event loop"):
                await server.__aenter__()
            server.stop()

        loop = IOLoop(make_current=False)
        run(scenario(loop))
        loop.close()

    def test_an_end_without_its_loop_runs_the_unload_hooks(self) -> None:
        """A loop that was closed first cannot end anything in good order; what needs none is done."""
        diary = Diary()
        loop = asyncio.new_event_loop()
        server = Server(App(FunctionHandler(fill), diary), io_loop=loop, port=0)
        server.start()
        loop.run_until_complete(asyncio.sleep(0.05))
        assert diary.lines == ["loaded"]
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        server.stop()
        server.stop()
        assert diary.lines == ["loaded", "unloaded"]

    def test_one_that_was_never_started_can_be_stopped(self) -> None:
        """Where the loop never ran, nothing is left of it but a free port."""
        loop = asyncio.new_event_loop()
        server = Server(fill, io_loop=loop, port=0)
        server.stop()
        with socket.create_server(("", server.port or 0)):
            loop.close()


class TestBesideOthers:
    """Other Tornado applications on the same loop, and routes among one another."""

    def test_another_application_answers_beside_it(self) -> None:
        """On the same loop, with a port of its own."""

        async def scenario() -> tuple[str, str]:
            async with Server(fill, port=0) as server:
                other = HTTPServer(Application([("/hello", Hello)]))
                port = free_port()
                other.listen(port, "127.0.0.1")
                texts = (
                    await text_of(f"http://127.0.0.1:{port}/hello"),
                    await text_of(f"http://localhost:{server.port}/"),
                )
                other.stop()
                await other.close_all_connections()
                return texts

        hello, page = run(scenario())
        assert hello == "hello"
        assert "<html" in page

    def test_the_routes_inside_of_a_larger_application(self) -> None:
        """`server.application` under its prefix; the larger one has the port, and the apps work through it."""

        async def scenario() -> None:
            async with Server({"/app": fill}, listen=False, prefix="/bokeh") as server:
                assert server.port is None
                larger = HTTPServer(Application([("/hello", Hello), ("/bokeh/.*", server.application)]))
                port = free_port()
                larger.listen(port, "127.0.0.1")
                url = f"http://127.0.0.1:{port}"
                assert await text_of(f"{url}/hello") == "hello"
                token = await token_at(f"{url}/bokeh/app")
                headers = {"Origin": url}
                async with Viewer.open(f"ws://127.0.0.1:{port}/bokeh/app/ws", token, headers) as viewer:
                    await viewer.pull()
                    assert (await viewer.set("slider", "value", 3)).msgtype == "OK"
                assert len(server.get_sessions("/app")) == 1
                with pytest.raises(RuntimeError, match="no URL"):
                    server.show("/app")
                larger.stop()
                await larger.close_all_connections()

        run(scenario())


class TestInThreads:
    """Loops of their own, beside whatever the main thread does."""

    def test_two_servers_in_two_threads(self) -> None:
        """Ports, apps and sessions are each one's own."""
        with ServerAside(Server, {"/a": fill}) as one, ServerAside(Server, {"/b": fill}) as two:
            assert fetch(f"{one.url}/a").status == fetch(f"{two.url}/b").status == 200
            assert fetch(f"{one.url}/b").status == fetch(f"{two.url}/a").status == 404
            assert len(one.call(one.server.get_sessions)) == len(two.call(two.server.get_sessions)) == 1

    def test_stop_from_another_thread_waits_for_the_end(self) -> None:
        """When it returns the hooks have run, though the loop goes on."""
        diary = Diary()
        with ServerAside(Server, App(FunctionHandler(fill), diary)) as aside:
            assert fetch(f"{aside.url}/").status == 200
            aside.server.stop()
            assert diary.lines == ["loaded", "created", "destroyed", "unloaded"]
            assert aside.call(lambda: "still here") == "still here"
            aside.server.stop()

    @pytest.mark.parametrize("end", ["stop", "unlisten"])
    def test_another_thread_that_does_not_wait_has_the_port(self, end: str) -> None:
        """`stop(wait=False)` and `unlisten` wait for that alone."""
        with ServerAside(Server, fill) as aside:
            assert fetch(f"{aside.url}/").status == 200
            aside.server.stop(wait=False) if end == "stop" else aside.server.unlisten()
            with socket.create_server(("", aside.server.port)):
                pass

    def test_start_from_another_thread(self) -> None:
        """The loop runs already, and is stopped from outside."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        server = Server(fill, io_loop=loop, port=0)
        server.start()
        assert fetch(f"http://localhost:{server.port}/").status == 200
        server.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(seconds(10))
        server.io_loop.close()

    def test_signals_are_the_main_threads(self) -> None:
        """`run_until_shutdown` says so instead of failing in asyncio."""
        with ServerAside(Server, fill) as aside, pytest.raises(RuntimeError, match="main thread"):
            run_in_thread(aside.server.run_until_shutdown)

    def test_many_come_at_once(self) -> None:
        """Blocking clients in threads of their own, each with a session and a change of its own."""
        with ServerAside(Server, fill) as aside:

            def visit(number: int) -> None:
                with pull_session(url=aside.url) as session:
                    slider: Any = session.document.get_model_by_name("slider")
                    slider.value = number
                    session.force_roundtrip()
                    here = aside.server.get_session("/", session.id)
                    values.append((number, here.document.get_model_by_name("slider").value))

            values: list[tuple[int, int]] = []
            threads = [threading.Thread(target=visit, args=(number,)) for number in range(1, 9)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(seconds(30))
            assert sorted(values) == [(number, number) for number in range(1, 9)]


class TestPlaces:
    """Other places to listen than a port."""

    def test_a_unix_socket(self, tmp_path: Path) -> None:
        """Which is gone when the server is."""
        path = tmp_path / "socket"

        async def scenario() -> None:
            async with Server(fill, unix_socket=path) as server:
                assert (server.port, server.address, server.unix_socket) == (None, None, str(path))
                answer = await asyncio.to_thread(fetch, "http://localhost/", unix_socket=str(path))
                assert answer.status == 200

        run(scenario())
        assert not path.exists()

    def test_tls_in_the_process(self, tmp_path: Path) -> None:
        """The certificate is served as it is, and pages and websockets go over it."""
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
            check=True,
            capture_output=True,
        )  # fmt: skip
        trust = ssl.create_default_context(cafile=str(cert))

        async def scenario() -> None:
            async with Server(fill, port=0, ssl_certfile=cert, ssl_keyfile=key) as server:
                client = AsyncHTTPClient()
                answer = await client.fetch(HTTPRequest(f"https://localhost:{server.port}/", ssl_options=trust))
                assert answer.code == 200
                assert len(server.get_sessions()) == 1

        run(scenario())

    def test_the_admin_endpoints(self) -> None:
        """Asked for, they are those of a node with one worker and no gateway."""
        port = free_port()

        async def scenario() -> None:
            async with Server(fill, port=0, admin_port=port) as server:
                assert await text_of(f"http://127.0.0.1:{port}/livez") == "ok"
                assert await text_of(f"http://127.0.0.1:{port}/readyz") == "ok"
                await text_of(f"http://localhost:{server.port}/")
                (session,) = server.get_sessions()
                rows = await text_of(f"http://127.0.0.1:{port}/sessions")
                assert session.id[:8] in rows
                assert session.id not in rows
                assert '"sessions": 1' in await text_of(f"http://127.0.0.1:{port}/workers")

        run(scenario())

    def test_its_metrics(self) -> None:
        """`/metrics` tells of its sessions, and the program's own registry has none of it."""
        port = free_port()

        async def scenario() -> None:
            async with Server({"/app": fill}, port=0, admin_port=port) as server:
                assert "<html" in await text_of(f"http://localhost:{server.port}/app")
                shown = await text_of(f"http://127.0.0.1:{port}/metrics")
                assert 'aperture_sessions{app="/app"} 1.0' in shown.splitlines()
                assert not [family.name for family in REGISTRY.collect() if family.name.startswith("aperture")]

        run(scenario())


class TestThePrograms:
    """What is the program's own is left alone."""

    @pytest.fixture
    def serving(self) -> Iterator[ServerAside]:
        with ServerAside(Server, fill) as aside:
            assert fetch(f"{aside.url}/").status == 200
            yield aside

    def test_documents_of_its_own(self, serving: ServerAside) -> None:
        """Plots that are made, rendered and copied beside sessions: ids are unique, and documents are whole."""
        plot = figure()
        plot.line([1, 2, 3], [3, 2, 1])
        ids = [model.id for model in plot.references()]
        assert len(set(ids)) == len(ids)
        assert json_item(plot)["doc"]["roots"][0]["id"] == plot.id
        assert plot.id in file_html(plot, INLINE)
        document, root = Document(), Div()
        document.add_root(root)
        assert [copied.id for copied in Document.from_json(document.to_json()).roots] == [root.id]

    def test_stock_bokehs_server_beside_it(self, serving: ServerAside) -> None:
        """In one process, at the same time, each with its client."""
        with ServerAside(StockServer, fill) as stock:
            for aside in (serving, stock):
                with pull_session(url=aside.url) as session:
                    slider: Any = session.document.get_model_by_name("slider")
                    slider.value = 9
                    session.force_roundtrip()
                    here = aside.server.get_session("/", session.id)
                    assert here.document.get_model_by_name("slider").value == 9

    def test_its_garbage(self, serving: ServerAside) -> None:
        """Nothing of the program's is set aside when a session is made: what is garbage can be collected."""
        before = gc.get_freeze_count()
        assert fetch(f"{serving.url}/").status == 200
        assert serving.call(lambda: len(serving.server.get_sessions())) == 2
        assert gc.get_freeze_count() <= before

    def test_its_tasks_context(self) -> None:
        """A model made while a session's code runs has the session's prefix; one of the program's never has."""
        outside: list[str] = []

        def app(document: Document) -> None:
            document.add_root(Div(name="inside"))

        async def scenario() -> str:
            async with Server(app, port=0) as server:
                await text_of(f"http://localhost:{server.port}/")
                outside.append(Div().id)
                (session,) = server.get_sessions()
                made = session.document.get_model_by_name("inside")
                assert made is not None
                return str(made.id)

        inside = run(scenario())
        outside.append(Div().id)
        prefix = inside.rpartition("-")[0]
        assert not any(name.startswith(prefix) for name in outside)

    def test_its_signals(self, serving: ServerAside) -> None:
        """Are handled by `run_until_shutdown` alone."""
        import signal

        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class TestConnections:
    """Those that it accepts itself are treated like those that a gateway hands over."""

    def test_a_peer_that_is_gone_is_noticed(self) -> None:
        """By the kernel, from the first byte on."""

        async def scenario() -> int:
            async with Server(fill, port=0) as server:
                reader, writer = await asyncio.open_connection("localhost", server.port)
                writer.write(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await reader.readline()
                here = writer.get_extra_info("sockname")
                (accepted,) = [sock for sock in sockets() if peer(sock) == here]
                keepalive = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                writer.close()
                return keepalive

        assert run(scenario()) == 1


def sockets() -> list[socket.socket]:
    return [thing for thing in gc.get_objects() if isinstance(thing, socket.socket) and thing.fileno() >= 0]


def peer(sock: socket.socket) -> Any:
    with suppress(OSError):
        return sock.getpeername()
    return None


def run_in_thread(act: Any) -> None:
    """Call it in a thread, and raise here what it raised there."""
    problems: list[BaseException] = []

    def target() -> None:
        try:
            act()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(seconds(10))
    wait_until(lambda: not thread.is_alive())
    for problem in problems:
        raise problem
