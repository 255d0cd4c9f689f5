"""Redis killed, paused, cut off and overrun: the bus notices, says so, and comes back by itself."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from support.patience import run, seconds, wait_until
from support.redis import RedisServer, bus_on, eventually, free_port, fresh_namespace

from aperture.bus.redis import RedisBus
from aperture.bus.redis_options import BusOptions
from aperture.errors import BusDown, BusUnavailable

PASSWORD = "correct-horse"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def test_a_restart_is_noticed_and_survived(server: RedisServer) -> None:
    """What is asked meanwhile fails at once, subscriptions come back, and their loss is reported."""

    async def scenario() -> None:
        async with bus_on(server.url, fresh_namespace()) as bus:
            got: list[bytes] = []
            states: list[object] = []
            bus.watch(states.append)
            bus.on_resubscribed(lambda: states.append("again"))
            for index in range(300):
                await bus.subscribe(bus.names.channel(str(index)), got.append)
            assert bus.up
            server.kill()
            await eventually(lambda: not bus.up)
            with pytest.raises(BusDown):
                await bus.publish(bus.names.channel("1"), b"lost")
            with pytest.raises(BusDown):
                await bus.subscribe(bus.names.channel("new"), got.append)
            await bus.unsubscribe(bus.names.channel("0"))
            server.start()
            await eventually(lambda: bus.up)
            assert states == [False, True, "again"]
            assert await bus.publish(bus.names.channel("0"), b"absent") == 0
            for index in range(1, 300):
                assert await bus.publish(bus.names.channel(str(index)), b"x") == 1
            await eventually(lambda: got == [b"x"] * 299)
            assert bus.health.reconnects == 2
            assert bus.health.last_error is not None

    run(scenario())


def test_a_full_redis_is_as_good_as_away_for_who_writes(server: RedisServer) -> None:
    """What would need memory fails as it does without Redis, and the connection goes on."""

    async def scenario() -> None:
        async with bus_on(server.url, fresh_namespace()) as bus:
            await bus.command("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(BusDown, match="full"):
                await bus.command("SET", bus.names.session("one"), "x")
            assert bus.up
            assert await bus.command("GET", bus.names.session("one")) is None
            await bus.command("CONFIG", "SET", "maxmemory", "0")
            assert await bus.command("SET", bus.names.session("one"), "x") == b"OK"

    run(scenario())


def test_a_call_under_way_fails_when_redis_dies(server: RedisServer) -> None:
    """No call waits for an answer that cannot come."""

    async def scenario() -> None:
        async with bus_on(server.url, fresh_namespace()) as bus:
            waiting = asyncio.create_task(bus.command("BLPOP", bus.names.session("never"), "0"))
            await asyncio.sleep(0.1)
            server.kill()
            with pytest.raises(BusDown):
                await waiting

    run(scenario())


def test_a_connection_that_is_open_but_dead_is_given_up(server: RedisServer) -> None:
    """A paused process keeps its sockets open; what was published meanwhile is missed, and that is reported."""

    async def scenario() -> None:
        deadlines: dict[str, Any] = {"ping_interval": 0.25, "command_timeout": 1.0, "connect_timeout": 1.0}
        async with bus_on(server.url, fresh_namespace(), **deadlines) as bus:
            states: list[object] = []
            got: list[bytes] = []
            bus.watch(states.append)
            bus.on_resubscribed(lambda: states.append("again"))
            await bus.subscribe(bus.names.channel("s"), got.append)
            server.pause()
            under_way = [asyncio.create_task(bus.publish(bus.names.channel("s"), b"x")) for _ in range(10)]
            await eventually(lambda: not bus.up)
            done = await asyncio.gather(*under_way, return_exceptions=True)
            assert all(isinstance(outcome, BusDown) for outcome in done)
            await asyncio.sleep(1.5)  # attempts to connect time out meanwhile
            assert not bus.up
            server.resume()
            await eventually(lambda: bus.up)
            assert states == [False, True, "again"]
            got.clear()  # Redis has read some of it before it noticed that the connection was gone
            await bus.publish(bus.names.channel("s"), b"after")
            await eventually(lambda: got == [b"after"])

    run(scenario())


def test_a_subscription_that_is_dead_alone_is_made_anew(server: RedisServer) -> None:
    """Redis believes that it is subscribed, and nothing arrives any more: only the ping finds out."""

    async def scenario() -> None:
        port = free_port()
        async with _Forwarder(port, server) as forwarder:
            deadlines: dict[str, Any] = {"ping_interval": 0.25, "command_timeout": 1.0}
            async with bus_on(f"redis://127.0.0.1:{port}", fresh_namespace(), **deadlines) as bus:
                again: list[int] = []
                got: list[bytes] = []
                bus.on_resubscribed(lambda: again.append(1))
                await bus.subscribe(bus.names.channel("s"), got.append)
                forwarder.stall(1)  # the second connection: commands were first
                await eventually(lambda: bool(again))
                await bus.publish(bus.names.channel("s"), b"x")
                await eventually(lambda: got == [b"x"])
                assert bus.health.reconnects == 1

    run(scenario())


def test_a_subscriber_that_is_cut_for_lagging_is_told(server: RedisServer) -> None:
    """Redis closes its connection without a word; the command connection stays.

    Redis closes it as soon as too much waits. Valkey looks only now and then, so that a subscriber that has read all
    by then is left alone: this one reads nothing until it is cut.
    """

    async def scenario() -> None:
        namespace = fresh_namespace()
        async with bus_on(server.url, namespace) as bus:
            again: list[int] = []
            got: list[bytes] = []
            bus.on_resubscribed(lambda: again.append(1))
            await bus.subscribe(bus.names.channel("s"), got.append)
            _overrun(server, bus.names.channel("s"))
            await eventually(lambda: bool(again))
            await bus.publish(bus.names.channel("s"), b"after")
            await eventually(lambda: got == [b"after"])
            assert bus.health.reconnects == 1

    run(scenario())


def _overrun(server: RedisServer, channel: str) -> None:
    """Publish more than the sockets hold, and return once no subscriber is left. The loop stands meanwhile."""
    with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
        client.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        assert client.publish(channel, b"x" * 4_000_000) == 1
        wait_until(lambda: not client.client_list(_type="pubsub"), why="the subscriber is not cut")


def test_a_login_that_ends_is_made_again(server: RedisServer) -> None:
    """CLIENT KILL, as an administrator or a failover does it."""

    async def scenario() -> None:
        namespace = fresh_namespace()
        async with bus_on(server.url, namespace) as bus, bus_on(server.url, namespace) as other:
            await bus.subscribe(bus.names.channel("s"), lambda payload: None)
            for killed in range(1, 4):
                await other.command("CLIENT", "KILL", "TYPE", "pubsub")
                await eventually(lambda killed=killed: bus.health.reconnects == killed and bus.up)
                assert await other.publish(bus.names.channel("s"), b"x") == 1

    run(scenario())


def test_what_cannot_be_sent_is_refused_and_not_queued(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis does not read; what waits for it is bounded."""
    from aperture.bus import redis_connection as link

    monkeypatch.setattr(link, "MAX_WAITING_BYTES", 2_000_000)

    async def scenario() -> None:
        async with bus_on(server.url, fresh_namespace(), command_timeout=60.0) as bus:
            server.pause()
            tasks = []
            for _ in range(30):
                tasks.append(asyncio.create_task(bus.publish(bus.names.channel("s"), b"x" * 500_000)))
                await asyncio.sleep(0)
            await asyncio.sleep(0.2)
            refused = [task for task in tasks if task.done() and isinstance(task.exception(), BusDown)]
            assert refused
            assert bus.up
            server.resume()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert {0} == {outcome for outcome in done if not isinstance(outcome, BusDown)}

    run(scenario())


# Starting


def unavailable(url: str, **options: object) -> str:
    """What is said when the first attempt fails."""

    async def scenario() -> str:
        bus = RedisBus(BusOptions(url, **options))  # type: ignore[arg-type]
        with pytest.raises(BusUnavailable) as refused:
            await bus.start(wait=False)
        assert len(asyncio.all_tasks()) == 1
        assert not bus.up
        return str(refused.value)

    return run(scenario())


def test_nobody_there_is_said_with_the_address() -> None:
    """The commonest mistake."""
    port = free_port()
    said = unavailable(f"redis://me:{PASSWORD}@127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in said
    assert "refused" in said.lower()
    assert PASSWORD not in said


def test_no_socket_file_and_no_such_host_are_said(tmp_path: Path) -> None:
    """Each with its name."""
    assert "nothing.sock" in unavailable(f"unix://{tmp_path}/nothing.sock")
    assert "no-such-host.invalid" in unavailable("redis://no-such-host.invalid")


def test_a_wrong_or_missing_password_is_said() -> None:
    """And it is not repeated."""
    with RedisServer({"requirepass": PASSWORD}) as server:
        said = unavailable(server.url, password="wrong-horse")
        assert "password" in said.lower()
        assert "wrong-horse" not in said
        assert "auth" in unavailable(server.url).lower()

        async def scenario() -> None:
            async with bus_on(server.url, fresh_namespace(), password=PASSWORD) as bus:
                assert bus.up

        run(scenario())


def test_a_server_that_is_no_redis_is_noticed() -> None:
    """One that says nothing, and one that speaks HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = unavailable(f"redis://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.3)
        assert "no answer in time" in said

    async def scenario() -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        http = await asyncio.start_server(answer, "127.0.0.1", 0)
        bus = RedisBus(BusOptions(f"redis://127.0.0.1:{http.sockets[0].getsockname()[1]}"))
        with pytest.raises(BusUnavailable) as refused:
            await bus.start(wait=False)
        http.close()
        await http.wait_closed()
        return str(refused.value)

    assert "cannot connect to Redis" in run(scenario())


def test_waiting_for_redis_does_not_fail() -> None:
    """The bus is there before the server is."""

    async def scenario() -> None:
        with RedisServer() as server:
            server.kill()
            async with bus_on(server.url, fresh_namespace(), wait=True) as bus:
                assert not bus.up
                again: list[int] = []
                bus.on_resubscribed(lambda: again.append(1))
                with pytest.raises(BusDown):
                    await bus.command("PING")
                server.start()
                await eventually(lambda: bus.up)
                assert again == []

    run(scenario())


# TLS and Sentinel


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for localhost and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return str(cert), str(key)


def _has_tls() -> bool:
    """Whether the server gets as far as to miss its certificate."""
    command = ["redis-server", "--port", "0", "--tls-port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(10))
    return "Failed to configure TLS" in done.stdout + done.stderr


def test_tls_needs_a_certificate_that_is_trusted_and_shows_its_own(certificate: tuple[str, str]) -> None:
    """No program in between can pass for Redis."""
    if not _has_tls():
        pytest.skip("this redis-server was built without TLS")
    cert, key = certificate
    port = free_port()
    tls = {"tls-port": str(port), "tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert}
    with RedisServer(tls):
        url = f"rediss://localhost:{port}"
        assert "certificate" in unavailable(url).lower()
        assert "127.0.0.1" in unavailable(f"rediss://127.0.0.1:{port}", ca=cert, cert=cert, key=key)

        async def scenario() -> None:
            async with bus_on(url, fresh_namespace(), ca=cert, cert=cert, key=key) as bus:
                assert await bus.publish("aperture:c", b"x") == 0
            async with bus_on(url, fresh_namespace(), cert=cert, key=key, verify=False) as bus:
                assert await bus.command("PING") == b"PONG"

        run(scenario())


def test_a_closed_bus_keeps_no_connection_to_a_redis_that_says_no_goodbye(certificate: tuple[str, str]) -> None:
    """Nor one to a Redis that takes nothing more: a connection is over when it is given up."""
    cert, key = certificate
    port = free_port()
    tls = {"tls-port": str(port), "tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert}
    with RedisServer(tls if _has_tls() else {}) as server:

        async def scenario(url: str, **options: Any) -> None:
            async with bus_on(url, fresh_namespace(), **options) as bus:
                held = _sockets(bus)
                server.pause()
                under_way = asyncio.create_task(bus.publish("aperture:c", b"x" * 5_000_000))
                await asyncio.sleep(0)
            await eventually(lambda: all(sock.fileno() < 0 for sock in held))
            with pytest.raises(BusDown):
                await under_way
            server.resume()

        run(scenario(server.url))
        if _has_tls():
            run(scenario(f"rediss://localhost:{port}", cert=cert, key=key, verify=False))


def _sockets(bus: RedisBus) -> list[socket.socket]:
    transports = [link._transport for link in (bus._commands, bus._messages)]
    return [transport.get_extra_info("socket") for transport in transports if transport is not None]


def test_sentinels_are_asked_where_redis_is(tmp_path: Path) -> None:
    """A sentinel that is down is passed over; a service that they do not know is said."""
    port, sentinel_port = free_port(), free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {sentinel_port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\ndir {tmp_path}\n"
    )
    command = ["redis-server", str(config), "--sentinel", "--logfile", str(tmp_path / "log")]
    with RedisServer(port=port), subprocess.Popen(command) as sentinel:
        try:
            url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel_port}"

            async def scenario() -> None:
                async with bus_on(f"{url}/main", fresh_namespace(), wait=True) as bus:
                    await eventually(lambda: bus.up)
                    assert await bus.command("PING") == b"PONG"

            run(scenario())
            assert "other" in unavailable(f"{url}/other")
        finally:
            sentinel.kill()
            sentinel.wait(seconds(10))


class _Forwarder:
    """Passes connections on to a server, until one of them is to be dead without being closed."""

    def __init__(self, port: int, server: RedisServer) -> None:
        self._port = port
        self._server = server
        self._pumps: list[tuple[asyncio.Task[None], ...]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> _Forwarder:
        self._listener = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._listener.close()
        tasks = [task for pumps in self._pumps for task in pumps]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    def stall(self, index: int) -> None:
        for task in self._pumps[index]:
            task.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(self._server.socket_path))
        self._writers += [writer, back]
        self._pumps.append((asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while received := await reader.read(65536):
        writer.write(received)
        await writer.drain()
    writer.close()
