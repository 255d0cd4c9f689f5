"""Listening sockets: which addresses, which port, and what happens when they are taken."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aperture.config.settings import Settings
from aperture.gateway.supervise.bind import bind_listeners, unlink_socket_file


def close(*groups: list[socket.socket]) -> None:
    """Close everything that was bound."""
    for group in groups:
        for listener in group:
            listener.close()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_admin_port_that_nobody_stated_may_be_another(taken: int, caplog: pytest.LogCaptureFixture) -> None:
    """A second server on a machine starts, and says where its admin endpoints are."""
    listeners, admin = bind_listeners(Settings(port=0, admin_port=taken))
    try:
        port = admin[0].getsockname()[1]
        assert port != taken
        assert f"port {taken} is taken: the admin endpoints are at port {port}" in caplog.text
    finally:
        close(listeners, admin)


def test_an_admin_port_that_was_stated_is_that_or_none(taken: int) -> None:
    """A port that was given is where the node is looked for."""
    with pytest.raises(OSError, match=str(taken)) as refused:
        bind_listeners(Settings(port=0, admin_port=taken, admin_port_stated=True))
    assert refused.value.errno == errno.EADDRINUSE


def has_ipv6() -> bool:
    """Whether this machine can listen on IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_without_an_address_both_families_listen_on_one_port() -> None:
    """Port 0 is the same free port for IPv4 and IPv6."""
    listeners, admin = bind_listeners(Settings(port=0, admin_port=None))
    try:
        assert admin == []
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        families = {listener.family for listener in listeners}
        assert families == ({socket.AF_INET, socket.AF_INET6} if has_ipv6() else {socket.AF_INET})
        assert all(listener.gettimeout() == 0 for listener in listeners)
    finally:
        close(listeners)


def test_a_star_is_both_families_for_the_admin_endpoints_too() -> None:
    """Containers run where there is IPv4, IPv6 or both, and neither `0.0.0.0` nor `::` stands for all of that."""
    listeners, admin = bind_listeners(Settings(port=0, address="127.0.0.1", admin_port=0, admin_address="*"))
    try:
        assert [listener.family for listener in listeners] == [socket.AF_INET]
        families = {listener.family for listener in admin}
        assert families == ({socket.AF_INET, socket.AF_INET6} if has_ipv6() else {socket.AF_INET})
        assert len({listener.getsockname()[1] for listener in admin}) == 1
    finally:
        close(listeners, admin)


def test_a_taken_port_is_an_os_error_that_names_it_and_leaves_nothing_open() -> None:
    """The command line reports errno and text."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=str(port)) as caught:
            bind_listeners(Settings(port=0, address="127.0.0.1", admin_port=port, admin_port_stated=True))
        assert caught.value.errno == errno.EADDRINUSE


def test_a_unix_socket_of_a_living_server_is_refused_and_a_dead_ones_replaced(tmp_path: Path) -> None:
    """No socket is replaced while it is used."""
    settings = Settings(unix_socket=str(tmp_path / "s"), admin_port=None)
    first, _ = bind_listeners(settings)
    with pytest.raises(OSError) as caught:
        bind_listeners(settings)
    assert caught.value.errno == errno.EADDRINUSE
    close(first)
    second, _ = bind_listeners(settings)
    close(second)
    unlink_socket_file(settings)
    unlink_socket_file(settings)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_socket_is_never_deleted(tmp_path: Path) -> None:
    """A slip in an option must not cost a file."""
    precious = tmp_path / "precious"
    precious.write_text("x")
    with pytest.raises(OSError) as caught:
        bind_listeners(Settings(unix_socket=str(precious), admin_port=None))
    assert caught.value.errno == errno.EEXIST
    assert precious.read_text() == "x"


def test_a_path_that_is_too_long_for_a_socket_is_said_to_be_that(tmp_path: Path) -> None:
    """The system is never asked, so it has no word for it."""
    with pytest.raises(OSError, match="path too long"):
        bind_listeners(Settings(unix_socket=str(tmp_path / ("s" * 120)), admin_port=None))
