"""The prefill plane as a Ray actor: frames to carriers in the memory."""

import logging
import time
from collections.abc import Callable, Sequence

from prometheus_client.core import Metric

from actors.metrics import Metrics, Prefilling, loops, memory, prefill
from actors.parts import Settings, load_model, open_store
from actors.tracing import Trace, tracer
from pipeline.core import CarrierWrite, Frame
from pipeline.loop import Loop
from pipeline.prefiller import Prefiller
from pipeline.writer import Writer
from storage.registry import Registry

BATCH = 32  # frames of different cameras in one pass
PATIENCE_S = 1.0
TIDY_S = 60.0


class PrefillActor:
    """Takes what is ready across cameras, for as long as it lives. Restarted, it recalls the live memories from the store."""

    def __init__(self, settings: Settings, take: Callable[[int, float], Sequence[Frame]]) -> None:
        logging.basicConfig(level=logging.INFO)
        model = load_model(settings)
        store = open_store(settings, model.fingerprint, head=model.head)
        self._take = take
        self._store = store
        self._tracer = tracer("prefill")
        self._metrics = Metrics("prefill")
        self._work = Prefilling(self._metrics.registry)
        self._writer = Writer(self._put, note=store.note_loss, superseded=lambda camera_id: self._prefiller.drop(camera_id))
        self._prefiller = Prefiller(model, store.live, self._writer.write, store.claim)
        self._registry = Registry(settings.registry_url)
        self._loop = Loop(self._step, name="prefill").start()
        self._removed = Loop(self._drop_removed, name="removed cameras", every_s=1.0).start()
        self._tidying = Loop(self._tidy, name="retention", every_s=TIDY_S).start()
        running = loops(prefill=self._loop, removed=self._removed, retention=self._tidying)
        self._metrics.reads(prefill(self._prefiller, self._writer), memory(store), running)

    def ready(self) -> bool:
        """Answers once the model is loaded."""
        return True

    def metrics(self) -> list[Metric]:
        """What a scrape is told."""
        return self._metrics.told()

    def close(self) -> None:
        """Finish the batch under way and write what waits."""
        self._tidying.close()
        self._removed.close()
        self._loop.close()
        self._writer.close()

    def _step(self) -> None:
        frames = self._take(BATCH, PATIENCE_S)
        began_ns = time.time_ns()
        if made := self._prefiller.step(frames):
            ended_ns = time.time_ns()
            self._work.prefilled(len(made), (ended_ns - began_ns) / 1e9)
            for carrier in made:
                self._tracer.span(Trace.of(carrier.key), "prefill", began_ns, ended_ns, batch=len(made))

    def _put(self, writes: Sequence[CarrierWrite]) -> None:
        began_ns = time.time_ns()
        self._store.put(writes)
        ended_ns = time.time_ns()
        self._work.wrote(writes, ended_ns // 1_000_000)
        for key in (write.carrier.key for write in writes):
            self._tracer.span(Trace.of(key), "write", began_ns, ended_ns, batch=len(writes))
            self._tracer.span(Trace.of(key), "frame", key.at_ms * 1_000_000, ended_ns, root=True, camera=key.camera_id)

    def _drop_removed(self) -> None:
        self._prefiller.keep_only([camera.id for camera in self._registry.cameras()])

    def _tidy(self) -> None:
        for camera_id in self._registry.ever():
            self._store.tidy(camera_id)
