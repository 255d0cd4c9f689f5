#!/usr/bin/env python3
"""Ask this container's admin endpoints: `aperture-probe /livez`. Exit code 0 when the answer is 200.

Standard library only, because a probe runs every few seconds; http.client ignores the environment's proxies.
"""

import http.client
import os
import sys

TIMEOUT = 4.0
"""Seconds; below the timeout of the health check, so that the probe can print what is wrong."""


ADDRESSES = {"": "127.0.0.1", "*": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""A node that listens on all addresses is asked at this machine's own."""


def probe(path: str, address: str, port: str) -> str:
    """What is wrong, or an empty string; `address` and `port` are the node's variables, empty if they are not set."""
    if not port or port.startswith(("tcp://", "udp://")):
        port = "9006"  # Kubernetes sets the variable for a service of our name, and the node ignores it
    if not port.isdecimal() or not int(port):
        return f"no port to ask at: APERTURE_ADMIN_PORT={port}"
    connection = http.client.HTTPConnection(ADDRESSES.get(address, address), int(port), timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(1000).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as problem:
        return f"no answer at port {port}: {problem or type(problem).__name__}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status}: {text}"


if __name__ == "__main__":
    wrong = probe(
        sys.argv[1] if len(sys.argv) > 1 else "/livez",
        os.environ.get("APERTURE_ADMIN_ADDRESS", ""),
        os.environ.get("APERTURE_ADMIN_PORT", ""),
    )
    if wrong:
        sys.exit(wrong)
