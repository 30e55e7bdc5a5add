"""The prefill plane as a Ray actor: frames to carriers in the memory."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client.core import Metric

from actors.metrics import Metrics, Prefilling, loops, memory, prefill
from actors.parts import FIRST_PREFILLER, Settings, load_model, open_store
from actors.tracing import Trace, tracer
from pipeline.core import CarrierWrite
from pipeline.loop import Loop
from pipeline.prefiller import Prefiller
from pipeline.sharing import Share
from pipeline.writer import Writer
from storage.registry import Registry

BATCH = 32  # frames of different cameras in one pass
PATIENCE_S = 1.0
TIDY_S = 60.0

Come = Callable[[str, Mapping[str, int], int, float], Share]
"""How a prefiller gets its share: see `Ingest.share`."""


class PrefillActor:
    """Takes what is ready of its cameras, for as long as it lives. Restarted, it recalls their live memories from the store."""

    def __init__(self, settings: Settings, come: Come, name: str = FIRST_PREFILLER) -> None:
        logging.basicConfig(level=logging.INFO)
        model = load_model(settings)
        store = open_store(settings, model.fingerprint, head=model.head)
        self._come, self._name = come, name
        self._store = store
        self._tracer = tracer("prefill")
        self._metrics = Metrics(name)
        self._work = Prefilling(self._metrics.registry)
        self._writer = Writer(self._put, note=store.note_loss, superseded=lambda camera_id: self._prefiller.drop(camera_id))
        self._prefiller = Prefiller(model, store.live, self._writer.write, store.claim)
        self._registry = Registry(settings.registry_url)
        self._loop = Loop(self._step, name="prefill").start()
        self._tidying = Loop(self._tidy, name="retention", every_s=TIDY_S)
        if name == FIRST_PREFILLER:  # one for all cameras, those included that nobody watches any more
            self._tidying.start()
        running = loops(prefill=self._loop, retention=self._tidying)
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
        self._loop.close()
        self._writer.close()

    def _step(self) -> None:
        share = self._come(self._name, self._prefiller.holding, BATCH, PATIENCE_S)
        self._prefiller.keep_only(share.grants)
        began_ns = time.time_ns()
        if made := self._prefiller.step(share.frames):
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

    def _tidy(self) -> None:
        for camera_id in self._registry.ever():
            self._store.tidy(camera_id)
