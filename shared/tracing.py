"""OpenTelemetry traces, for who has a collector: requests, the making of sessions, callbacks, hops between workers.

They need the extra `bokeh-aperture[otel]` and a collector's address in `OTEL_EXPORTER_OTLP_ENDPOINT` or
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`. Without them `on` stays false, which is all that the paths of patches look at:

    if tracing.on:
        act = tracing.callback(...)

A request continues the trace that its `traceparent` names. A websocket may stay open for days, so that what comes over
it does not belong to the trace of its opening: each of its messages, and each callback that is due by itself, begins a
trace of its own, which links to the websocket's. The exporter has a thread, so it is made after the fork. It queues a
bounded number of spans and drops what a dead collector does not take.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from aperture.log_scope import PROCESS, REQUEST, SESSION

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

__all__ = [
    "begin_request",
    "callback",
    "carrier",
    "end_request",
    "hop",
    "is_wanted",
    "on",
    "prepare",
    "relayed",
    "scheduled",
    "span",
    "start",
    "stop",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

on = False
"""Whether this process traces. Read it as `tracing.on`, at each use."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_MAX_CARRIER = 200
"""Characters; a traceparent has 55."""

_tracer: Tracer
_provider: TracerProvider | None = None


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a collector, and does not turn tracing off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)


def prepare(environment: Mapping[str, str]) -> None:
    """Import what the workers will need, or say once that it is missing. Runs in the supervisor, before the fork."""
    if not is_wanted(environment):
        return
    if not _is_installed():
        log.warning(
            "a collector of traces is set, but OpenTelemetry is not installed: pip install bokeh-aperture[otel]"
        )
        return
    import opentelemetry.exporter.otlp.proto.http.trace_exporter
    import opentelemetry.sdk.trace.export  # noqa: F401


def start(environment: Mapping[str, str]) -> None:
    """Begin to trace, if that is wanted. Runs in each worker, after the fork: it starts a thread."""
    global on, _tracer, _provider
    if on or not is_wanted(environment) or not _is_installed():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        _provider = TracerProvider(resource=_resource(environment), shutdown_on_exit=False)
        _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception as problem:  # a variable that it cannot make sense of must not keep apps from being served
        log.warning("no traces: %s: %s", type(problem).__name__, problem)
        return
    _tracer = _provider.get_tracer("aperture")
    on = True


def stop(timeout: float) -> None:
    """Send what is left, for `timeout` seconds at most. Idempotent."""
    global on, _provider
    provider, _provider, on = _provider, None, False
    if provider is None:
        return
    # A collector that is dead is tried again for longer than a worker has to end.
    ending = threading.Thread(target=provider.shutdown, daemon=True)
    ending.start()
    ending.join(timeout)


# Requests


def begin_request(method: str, path: str, headers: Mapping[str, str]) -> Span:
    """Begin the span of a request, and make it the one that further spans of this task belong to."""
    from opentelemetry import context, trace

    request = _tracer.start_span(
        f"{method} request",
        context=_extracted({name: headers[name] for name in ("traceparent", "tracestate") if name in headers}),
        kind=trace.SpanKind.SERVER,
        attributes={"http.request.method": method, "url.path": path, "aperture.request": REQUEST.get()},
    )
    context.attach(trace.set_span_in_context(request))
    return request


def end_request(request: Span, status: int) -> None:
    """End the span of a request that is answered."""
    from opentelemetry.trace import StatusCode

    request.set_attribute("http.response.status_code", status)
    request.set_attributes(_about())
    if status >= 500:
        request.set_status(StatusCode.ERROR)
    request.end()


# Work


@contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """A span around the block, in the current one; nothing if tracing is off. Not for the paths of patches."""
    if not on:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes) as current:
        try:
            yield
        finally:
            current.set_attributes(_about())


@contextmanager
def relayed(name: str, carried: str, **attributes: str) -> Iterator[None]:
    """As `span`, in the trace of the worker that has sent what is acted on."""
    if not on:
        yield
        return
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        name, context=_extracted({"traceparent": carried}), kind=SpanKind.CONSUMER, attributes=attributes
    ):
        yield


def callback(kind: str, act: Callable[[], T], carried: str = "") -> Callable[[], T]:
    """`act` in a span. Only called where `on` is true.

    Args:
        kind: what makes it run: the type of a message, or `scheduled`.
        act: runs callbacks of an app.
        carried: says in which trace another worker has sent the message, if one has.
    """
    from opentelemetry.trace import SpanKind

    parent, links = (_extracted({"traceparent": carried}), None) if carried else _afresh()

    def traced() -> T:
        with _tracer.start_as_current_span(
            f"callback {kind}",
            context=parent,
            kind=SpanKind.CONSUMER if carried else SpanKind.INTERNAL,
            links=links,
            attributes=_about(),
        ):
            return act()

    return traced


@contextmanager
def scheduled() -> Iterator[None]:
    """A span around a callback that is due by itself. Only called where `on` is true."""
    parent, _ = _afresh()
    with _tracer.start_as_current_span("callback scheduled", context=parent, attributes=_about()):
        yield


def hop(kind: str) -> str:
    """Note that a message goes to another worker; returns what it has to carry. Only called where `on` is true."""
    from opentelemetry import trace

    parent, links = _afresh()
    sent = _tracer.start_span(
        f"relay {kind}", context=parent, kind=trace.SpanKind.PRODUCER, links=links, attributes=_about()
    )
    sent.end()
    return _injected(trace.set_span_in_context(sent))


def carrier() -> str:
    """What says to another worker which span this task is in; nothing if tracing is off."""
    if not on:
        return ""
    from opentelemetry import context

    return _injected(context.get_current())


# Inside


def _is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)
    except ImportError:
        return False


def _resource(environment: Mapping[str, str]) -> Any:
    from opentelemetry.sdk.resources import Resource

    from aperture.version import __version__

    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    instance = f"{PROCESS.node}/{PROCESS.name}/{os.getpid()}"
    attributes = {"service.version": __version__, "service.instance.id": instance}
    return Resource.create(attributes if named else {**attributes, "service.name": "aperture"})


def _about() -> dict[str, str]:
    scope = SESSION.get()
    return {} if scope is None else {"aperture.session": scope.short, "aperture.app": scope.app}


def _extracted(headers: Mapping[str, str]) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    sane = {name: value for name, value in headers.items() if name == "tracestate" or len(value) <= _MAX_CARRIER}
    return TraceContextTextMapPropagator().extract(sane, Context())


def _injected(current: Context) -> str:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, current)
    return headers.get("traceparent", "")


def _afresh() -> tuple[Context, Any]:
    """A trace of its own, with a link to the span that this task is in."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    around = trace.get_current_span().get_span_context()
    return Context(), [trace.Link(around)] if around.is_valid else None
