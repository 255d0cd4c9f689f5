"""A collector of OpenTelemetry's traces over HTTP, as small as one can be: what comes is decoded and kept."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.loopback_server import LoopbackServer
from support.patience import wait_until

__all__ = ["Collector", "attributes_of"]


class Collector(LoopbackServer):
    """Listens on a free port for the time of a `with` block. `OTEL_EXPORTER_OTLP_ENDPOINT` is set to its `url`."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.instances: set[str] = set()
        super().__init__(self._handler())

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
                """It is not read."""

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
