"""Spans sent over HTTP, in the background, as OpenTelemetry's standard variables say: OTEL_TRACES_SAMPLER included."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from actors.tracing import Trace


class Otlp:
    """A Tracer. When more waits than may, spans are dropped."""

    def __init__(self, plane: str) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(resource=Resource.create({"service.name": f"longwatch-{plane}"}), id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("longwatch")

    def span(self, trace: Trace, name: str, start_ns: int, end_ns: int, *, root: bool = False, **attributes: str | int) -> None:
        """Something that was done."""
        with self._ids.given(trace if root else None):
            context = Context() if root else self._under(trace, name)
            span = self._tracer.start_span(name, context, attributes=attributes, start_time=start_ns)
        span.end(end_ns)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()

    def _under(self, trace: Trace, name: str) -> Context:
        """Says that the root is elsewhere, and whether it was sampled: samplers go by the trace's id alone."""
        decision = self._provider.sampler.should_sample(None, trace.id, name).decision
        flags = TraceFlags(TraceFlags.SAMPLED if decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT)
        return set_span_in_context(NonRecordingSpan(SpanContext(trace.id, trace.root, is_remote=True, trace_flags=flags)))


class _Ids(RandomIdGenerator):
    """Random, but for a root's, which are given. OpenTelemetry asks for them in the thread that starts the span."""

    def __init__(self) -> None:
        self._given = threading.local()

    @contextmanager
    def given(self, trace: Trace | None) -> Iterator[None]:
        self._given.trace = trace
        yield
        self._given.trace = None

    def generate_trace_id(self) -> int:
        trace = self._trace()
        return trace.id if trace else super().generate_trace_id()

    def generate_span_id(self) -> int:
        trace = self._trace()
        return trace.root if trace else super().generate_span_id()

    def _trace(self) -> Trace | None:
        return getattr(self._given, "trace", None)
