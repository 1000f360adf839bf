"""Spans as OpenTelemetry has them. Imported only where traces are wanted."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.telemetry.spans import Attributes, Kind, Span

LAST_WORDS: Final = 1.0
"""Seconds in which the last spans can be sent when the process ends."""
_NAME: Final = "quantapay-gateway"
_KINDS: Final[dict[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
}


class _Span:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, code: str) -> None:
        self._span.set_attribute("error.type", code)
        self._span.set_status(Status(StatusCode.ERROR))


class OpenTelemetryTracer:
    """Hands spans to a processor of the SDK."""

    def __init__(self, processor: SpanProcessor) -> None:
        # Only our name and what the operator's variables say: the SDK could find out much of a host.
        resource = Resource({SERVICE_NAME: _NAME}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_NAME, __version__)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def exporting(cls) -> Self:
        """Make one that sends spans in batches, from a thread of its own, by OTLP over HTTP."""
        return cls(BatchSpanProcessor(OTLPSpanExporter()))

    @contextmanager
    def start(
        self, name: str, *, kind: Kind, attributes: Attributes, parent: str | None, is_root: bool
    ) -> Iterator[Span]:
        """Begin a span. What it is told is all that it says: an exception's text can hold what a caller sent."""
        context = self._context(parent) if is_root else None
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=_KINDS[kind],
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield _Span(span)

    def _context(self, parent: str | None) -> Context:
        return self._propagator.extract({"traceparent": parent}, context=Context()) if parent else Context()

    def traceparent(self) -> str:
        """Return what tells another process of the span that is open."""
        context = get_current_span().get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    async def close(self) -> None:
        """Send what is left, for a second at most: nobody waits longer for a collector that is away."""
        # A daemon, so that the process can end meanwhile.
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, LAST_WORDS)
