"""Which node `aperture drain` asks."""

from __future__ import annotations

import argparse

import pytest

from aperture.gateway.admin.access import address_to_ask
from aperture.gateway.admin.drain import drain_parser

ADDRESS, PORT = "APERTURE_ADMIN_ADDRESS", "APERTURE_ADMIN_PORT"


def asked(*words: str) -> tuple[str, int]:
    given = drain_parser(argparse.ArgumentParser()).parse_args(words)
    return given.admin_address, given.admin_port


@pytest.mark.parametrize(
    ("environment", "words", "expected"),
    [
        ({}, [], ("127.0.0.1", 9006)),
        ({ADDRESS: "10.0.0.7", PORT: "9106"}, [], ("10.0.0.7", 9106)),
        ({ADDRESS: "", PORT: ""}, [], ("127.0.0.1", 9006)),
        ({PORT: "tcp://10.0.0.1:9006"}, [], ("127.0.0.1", 9006)),
        ({ADDRESS: "*", PORT: "9106"}, ["--admin-address", "::1", "--admin-port", "9206"], ("::1", 9206)),
        ({PORT: "none"}, ["--admin-port", "9206"], ("127.0.0.1", 9206)),
    ],
)
def test_the_node_is_where_the_environment_puts_it(
    environment: dict[str, str], words: list[str], expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the command is given nothing, and the node was started with these variables."""
    for name in (ADDRESS, PORT):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert asked(*words) == expected


@pytest.mark.parametrize("port", ["none", "0", "x"])
def test_a_node_without_a_port_cannot_be_asked(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage, in one sentence."""
    monkeypatch.setenv(PORT, port)
    with pytest.raises(SystemExit) as ended:
        asked()
    assert ended.value.code == 2
    assert "is no port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("listens", "asked"),
    [("*", "localhost"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.7", "10.0.0.7"), ("node", "node")],
)
def test_all_addresses_are_asked_at_this_machines_own(listens: str, asked: str) -> None:
    """No system promises that those stand for an address one can connect to."""
    assert address_to_ask(listens) == asked
