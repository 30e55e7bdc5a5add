"""A collector of traces, as people run one beside Longwatch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from actors.tracing import Trace


@dataclass
class Collector:
    """Takes spans over OTLP/HTTP."""

    url: str
    spans: list[tuple[str, Any]] = field(default_factory=list)  # service, span

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that is to send here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def of(self, trace: Trace) -> dict[str, tuple[str, Any]]:
        """By name: service and span."""
        return {span.name: (service, span) for service, span in self.spans if int.from_bytes(span.trace_id, "big") == trace.id}

    def traces(self) -> dict[bytes, set[tuple[str, str]]]:
        """Of each trace, which service sent which span."""
        found: dict[bytes, set[tuple[str, str]]] = {}
        for service, span in list(self.spans):
            found.setdefault(span.trace_id, set()).add((service, span.name))
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            for told in request.resource_spans:
                service = next(a.value.string_value for a in told.resource.attributes if a.key == "service.name")
                collected.spans += [(service, span) for scope in told.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collected = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collected
        finally:
            server.shutdown()
