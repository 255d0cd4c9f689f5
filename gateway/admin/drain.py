"""`aperture drain`: replace a running node's workers, one by one, from the same machine.

Each worker hands its sessions over, closes its connections so that browsers reconnect to other workers, and is replaced
by one that loads the apps again. SIGHUP to the supervisor does the same; this command finds the supervisor's process
id through the admin port.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys

from aperture.config.options import BY_NAME
from aperture.config.sources import Sources
from aperture.errors import ConfigurationError, ExitCode
from aperture.gateway.admin.access import address_to_ask

__all__ = ["drain", "drain_parser"]

_TIMEOUT = 5.0
"""Seconds for the admin endpoint to answer."""


def drain_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the arguments of `aperture drain`; defaults come from the environment variables of `aperture serve`."""
    sources = Sources({}, os.environ)
    for name, meaning in (("admin_address", "address of the node's admin endpoints"), ("admin_port", "their port")):
        option = BY_NAME[name]
        parser.add_argument(
            option.flag,
            type=_port if name == "admin_port" else str,
            default=sources.stated(option) or option.default,
            help=f"{meaning} (default: {option.environment}, else {option.default})",
        )
    parser.add_argument("--admin-token", help="their token (default: APERTURE_ADMIN_TOKEN in the environment)")
    parser.add_argument("--admin-token-file", help="file that holds it (default: APERTURE_ADMIN_TOKEN_FILE)")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; the node's log names it, if it has one")
    return int(text)


def drain(address: str, port: int, token: str | None = None) -> int:
    """Ask a node to replace its workers; returns as soon as the supervisor has the signal.

    Args:
        address: where its admin endpoints listen.
        port: the port of its admin endpoints.
        token: their bearer token, if they require one.

    Raises:
        ConfigurationError: no node answers there, or its supervisor does not run on this machine.
    """
    pid = _supervisor_pid(address, port, token)
    if not hasattr(signal, "SIGHUP"):
        raise ConfigurationError("this platform has no SIGHUP")
    try:
        os.kill(pid, signal.SIGHUP)
    except (ProcessLookupError, PermissionError) as problem:
        raise ConfigurationError(f"process {pid} cannot be signalled: {problem}; is it on this machine?") from problem
    sys.stdout.write(f"process {pid} replaces its workers one by one; its log tells when\n")
    return ExitCode.OK


def _supervisor_pid(address: str, port: int, token: str | None) -> int:
    connection = http.client.HTTPConnection(address_to_ask(address), port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/workers", headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status == http.HTTPStatus.UNAUTHORIZED:
            raise ConfigurationError(f"the node at {address}:{port} wants its token: give --admin-token-file")
        return int(answer["supervisor"]["pid"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as problem:
        raise ConfigurationError(f"no node answers at {address}:{port}: {problem}") from problem
    finally:
        connection.close()
