"""The prefill plane as a Ray actor: frames to carriers in the memory."""

import logging
from collections.abc import Callable, Sequence

from actors.parts import Settings, load_model, open_store
from pipeline.core import Frame
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
        self._writer = Writer(store.put, note=store.note_loss, superseded=lambda camera_id: self._prefiller.drop(camera_id))
        self._prefiller = Prefiller(model, store.live, self._writer.write, store.claim)
        self._registry = Registry(settings.registry_url)
        self._loop = Loop(self._step, name="prefill").start()
        self._removed = Loop(self._drop_removed, name="removed cameras", every_s=1.0).start()
        self._tidying = Loop(self._tidy, name="retention", every_s=TIDY_S).start()

    def ready(self) -> bool:
        """Answers once the model is loaded."""
        return True

    def close(self) -> None:
        """Finish the batch under way and write what waits."""
        self._tidying.close()
        self._removed.close()
        self._loop.close()
        self._writer.close()

    def _step(self) -> None:
        self._prefiller.step(self._take(BATCH, PATIENCE_S))

    def _drop_removed(self) -> None:
        self._prefiller.keep_only([camera.id for camera in self._registry.cameras()])

    def _tidy(self) -> None:
        for camera_id in self._registry.ever():
            self._store.tidy(camera_id)
