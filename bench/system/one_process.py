"""The baseline of isolation: all planes in one process, and every pass of the model on one thread, first come first served.

    python -m bench.system.one_process longwatch.yaml

Everything else is the product's own code: the same batches of frames, and questions that share passes and let a batch of frames in
between two tokens. What it lacks is only what Ray's processes add.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
import uvicorn
from numpy.typing import NDArray

from actors.decode import DEADLINE_S
from actors.parts import Settings, load_batch, load_model, open_store
from actors.prefill import BATCH, PATIENCE_S
from pipeline.answerer import Answerer
from pipeline.batching import Batching, Decoded, Said, Seat
from pipeline.config import load_config
from pipeline.core import Carrier, Frame
from pipeline.ingest import Ingest
from pipeline.loop import Loop
from pipeline.prefiller import LiveMemory, Prefiller
from pipeline.writer import Writer
from storage.registry import Registry
from web.api import create_app

if TYPE_CHECKING:
    from model.batch import Batch
    from model.videoscan import VideoScan

Submit = Callable[..., Any]


class InTurn:
    """A model whose passes wait for one another."""

    def __init__(self, scan: "VideoScan", submit: Submit) -> None:
        self._scan, self._submit = scan, submit
        self.fingerprint, self.mode, self.looks = scan.fingerprint, scan.mode, scan.looks

    def memory(self, carriers: Sequence[Carrier] = ()) -> LiveMemory:
        """As the model's."""
        return self._scan.memory(carriers)

    def prefill(self, frames: Sequence[Frame], memories: Sequence[LiveMemory]) -> list[Carrier]:
        """As the model's, in turn."""
        made: list[Carrier] = self._submit(self._scan.prefill, frames, memories).result()
        return made

    def sought(self, question: str) -> NDArray[np.float32] | None:
        """As the model's, in turn."""
        found: NDArray[np.float32] | None = self._submit(self._scan.sought, question).result()
        return found

    def decode(self, question: str, carriers: Sequence[Carrier]) -> Decoded:
        """As the model's, in turn."""
        decoded: Decoded = self._submit(self._scan.decode, question, carriers).result()
        return decoded

    def shown(self, question: str, sets: Sequence[Sequence[Carrier]]) -> list[float]:
        """As the model's, in turn."""
        shown: list[float] = self._submit(self._scan.shown, question, sets).result()
        return shown

    def judge(self, questions: Sequence[str], sets: Sequence[Sequence[Carrier]]) -> list[Decoded]:
        """As the model's, in turn."""
        decoded: list[Decoded] = self._submit(self._scan.judge, questions, sets).result()
        return decoded


class BatchInTurn:
    """A batch of questions whose passes wait for those of frames."""

    def __init__(self, batch: "Batch[Seat]", submit: Submit) -> None:
        self._batch, self._submit = batch, submit

    def turn(self, joining: Mapping[Seat, tuple[str, Sequence[Carrier]]], leaving: Collection[Seat]) -> Mapping[Seat, Said]:
        """As the batch's, in turn."""
        said: Mapping[Seat, Said] = self._submit(self._batch.turn, joining, leaving).result()
        return said


def main(file: Path) -> None:
    """Watch and answer until SIGTERM. The configuration names its Redis."""
    config = load_config(file)
    settings = Settings.of(config, config.redis or "")
    scan, submit = load_model(settings), ThreadPoolExecutor(1, "model").submit
    model = InTurn(scan, submit)
    registry = Registry(settings.registry_url)
    store = open_store(settings, model.fingerprint, head=scan.head, cache_bytes=settings.cache_bytes)
    answerer = Answerer(model, store, lambda: [camera.id for camera in registry.cameras()], budget=scan.budget)
    batching = Batching(lambda: BatchInTurn(load_batch(scan), submit))
    ingest, writer = Ingest(), Writer(store.put)
    prefiller = Prefiller(model, store.live, writer.write, store.claim)
    for camera in config.watched():
        registry.add_camera(camera)
    ingest.reconcile(config.watched())
    prefilling = Loop(lambda: prefiller.step(ingest.take(BATCH, PATIENCE_S)), name="prefill").start()
    app = create_app(registry, store, partial(answerer.stream, speak=partial(batching.ask, within_s=DEADLINE_S)))
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning")
    ingest.close()
    prefilling.close()
    writer.close()


if __name__ == "__main__":
    typer.run(main)
