"""A collector of OpenTelemetry's traces over HTTP, as small as one can be: what comes is decoded and kept."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.patience import wait_until

__all__ = ["Collector", "attributes_of"]


class Collector:
    """Listens on a free port for the time of a `with` block."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.instances: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def named(self, name: str) -> list[Any]:
        """The spans of that name so far."""
        return [span for span in list(self.spans) if span.name == name]

    def wait_for(self, name: str, fits: Callable[[Any], bool] = lambda span: True) -> Any:
        """A span of that name, once there is one that fits."""
        wait_until(
            lambda: any(map(fits, self.named(name))), 20, f"no such {name!r} among {[s.name for s in self.spans]}"
        )
        return next(filter(fits, self.named(name)))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Nobody reads it."""

        return Handler

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for part in request.resource_spans:
            known = attributes_of(part.resource)
            self.services.add(known["service.name"])
            self.instances.add(known["service.instance.id"])
            for scope in part.scope_spans:
                self.spans.extend(scope.spans)


def attributes_of(holder: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes}
