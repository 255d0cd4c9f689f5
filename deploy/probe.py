#!/usr/bin/env python3
"""Ask this container's admin endpoints: `aperture-probe /livez`. Exit code 0 when the answer is 200.

Standard library only, and without a proxy, whatever the environment says: a probe runs every few seconds.
"""

import http.client
import os
import sys

TIMEOUT = 4.0
"""Seconds; below the timeout of the health check, so that it says what was wrong."""


def probe(path: str, port: int) -> str:
    """What is wrong, or an empty string."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
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
    wrong = probe(sys.argv[1] if len(sys.argv) > 1 else "/livez", int(os.environ.get("APERTURE_ADMIN_PORT") or 9006))
    if wrong:
        sys.exit(wrong)
