"""The ingest plane as a Ray actor: cameras in, frames out to those who prefill, each camera's to one of them."""

import time
from collections.abc import Mapping

from prometheus_client.core import Metric

from actors.metrics import Metrics, cameras, loops
from actors.tracing import Trace, tracer
from pipeline.core import CarrierKey
from pipeline.ingest import Ingest
from pipeline.loop import Loop
from pipeline.sharing import Share
from storage.registry import Registry


class IngestActor:
    """Keeps the cameras as the registry wants them, and reports how they are."""

    def __init__(self, registry_url: str) -> None:
        self._registry = Registry(registry_url)
        self._ingest = Ingest()
        self._term = 0  # none yet
        self._tracer = tracer("ingest")
        self._loop = Loop(self._keep, name="ingest", every_s=1.0).start()
        self._metrics = Metrics("ingest")
        self._metrics.reads(cameras(self._ingest.statuses), loops(ingest=self._loop))

    def share(self, prefiller: str, holding: Mapping[str, int], limit: int, timeout_s: float) -> Share:
        """The newest frames of a prefiller's cameras, at most one of each; waits for the first."""
        share = self._ingest.share(prefiller, holding, limit, timeout_s)
        now_ns = time.time_ns()
        for frame in share.frames:
            key = CarrierKey(camera_id=frame.camera_id, at_ms=frame.captured_ms)
            self._tracer.span(Trace.of(key), "ingest", frame.captured_ms * 1_000_000, now_ns)
        return share

    def ready(self) -> bool:
        """Answers once the actor is built."""
        return True

    def metrics(self) -> list[Metric]:
        """What a scrape is told."""
        return self._metrics.told()

    def close(self) -> None:
        """Let go of every camera."""
        self._loop.close()
        self._ingest.close()

    def _keep(self) -> None:
        if not self._term:
            self._term = self._registry.term()
            self._ingest.begin(self._term)
        self._ingest.reconcile(self._registry.cameras())
        self._ingest.look()
        self._registry.report(self._ingest.statuses())
