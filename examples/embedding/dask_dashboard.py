"""Dask's dashboard, served by Aperture at the port and the paths where Dask has it.

Dask's scheduler passes its plots to `distributed.dashboard.scheduler.connect`, which serves them with Bokeh's server.
The function here replaces that one and serves them with Aperture's; everything else is Dask's. A program calls
`use_aperture` before it makes its scheduler. This one runs a whole cluster with some work:

    python examples/embedding/dask_dashboard.py --port 8787      # http://localhost:8787/status
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from functools import partial
from typing import Any

import distributed.dashboard.scheduler as dashboard
from distributed import Client, LocalCluster
from tornado.ioloop import IOLoop
from tornado.web import RedirectHandler

from aperture import Server


def use_aperture() -> None:
    """Let schedulers that start from now on serve their dashboard with Aperture."""
    dashboard.connect = connect


def connect(application: Any, http_server: Any, scheduler: Any, prefix: str = "") -> None:
    """Serve the plots of a scheduler among its other pages. Dask calls this on the scheduler's loop."""
    base = f"/{prefix.strip('/')}/".replace("//", "/")
    known = {"prefix": base, **dashboard.template_variables(scheduler)}
    server = Server(
        {route: partial(fill, scheduler, known) for route, fill in dashboard.applications.items()},
        io_loop=IOLoop.current(),
        listen=False,
        prefix=prefix,
        use_index=False,
        allow_websocket_origin=[f"localhost:{http_server.port}"],
        extra_patterns=[(r"/?", RedirectHandler, {"url": f"{base}status"})],
    )
    application.add_application(server.application)
    server.start()


def square(number: int) -> int:
    """Something to do."""
    time.sleep(0.1)
    return number * number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8787, help="port of the dashboard")
    options = parser.parse_args()
    use_aperture()
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=f"127.0.0.1:{options.port}"
        ) as cluster,
        Client(cluster) as client,
    ):
        print(f"Dask's dashboard: http://localhost:{cluster.scheduler.http_server.port}/status", flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                client.gather(client.map(square, range(20), pure=False))


if __name__ == "__main__":
    main()
