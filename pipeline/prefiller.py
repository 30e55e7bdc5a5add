"""From frames to carriers in the long-term memory: the whole of the prefill plane, in plain Python."""

import io
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from PIL import Image

from pipeline.core import Carrier, CarrierWrite, Frame, StoreUnavailable

log = logging.getLogger(__name__)

PICTURE_QUALITY = 80


class LiveMemory(Protocol):
    """The carriers that the next frame of one camera attends to."""

    @property
    def carriers(self) -> tuple[Carrier, ...]:
        """Oldest first."""

    def add(self, carrier: Carrier) -> Carrier | None:
        """Append one; what had to go is returned."""


class Model(Protocol):
    """The first phase of a model."""

    def memory(self, carriers: Sequence[Carrier] = ()) -> LiveMemory:
        """A live memory of the model's size."""

    def prefill(self, frames: Sequence[Frame], memories: Sequence[LiveMemory]) -> list[Carrier]:
        """One carrier a frame."""


class Prefiller:
    """Turns batches of frames, at most one a camera, into carriers. Not thread-safe.

    `recall` gives a camera's live memory as the store has it, so that a restarted prefiller goes on where the last one
    stopped; `write` takes what is to be kept and must not block.
    """

    def __init__(self, model: Model, recall: Callable[[str], Sequence[Carrier]], write: Callable[[CarrierWrite], None]) -> None:
        self._model = model
        self._recall = recall
        self._write = write
        self._memories: dict[str, LiveMemory] = {}
        self.stale = 0  # frames not newer than what their camera remembers
        self.skipped = 0  # frames of cameras whose memory could not be recalled

    def step(self, frames: Sequence[Frame]) -> list[Carrier]:
        """Prefill one batch. A frame whose camera's memory cannot be recalled now is skipped; the other cameras do not wait for it."""
        ready = [frame for frame in frames if self._has_memory(frame.camera_id)]
        fresh = [frame for frame in ready if self._is_newer(frame)]
        self.skipped += len(frames) - len(ready)
        self.stale += len(ready) - len(fresh)
        if not fresh:
            return []
        memories = [self._memories[frame.camera_id] for frame in fresh]
        carriers = self._model.prefill(fresh, memories)
        for frame, memory, carrier in zip(fresh, memories, carriers, strict=True):
            memory.add(carrier)
            live = tuple(kept.key.at_ms for kept in memory.carriers)
            self._write(CarrierWrite(carrier=carrier, picture=jpeg(frame), live=live))
        return carriers

    def keep_only(self, cameras: Collection[str]) -> None:
        """Drop the live memories of all other cameras; a frame recalls its camera's from the store. From any thread."""
        for camera_id in set(self._memories) - set(cameras):
            self._memories.pop(camera_id, None)

    def _has_memory(self, camera_id: str) -> bool:
        if camera_id not in self._memories:
            try:
                self._memories[camera_id] = self._model.memory(self._recall(camera_id))
            except StoreUnavailable as error:
                log.warning("the memory of %s cannot be recalled now: %s", camera_id, error)
                return False
        return True

    def _is_newer(self, frame: Frame) -> bool:
        """A camera whose clock steps back is held until it has caught up, so that no memory is ever out of order."""
        carriers = self._memories[frame.camera_id].carriers
        return not carriers or frame.captured_ms > carriers[-1].key.at_ms


def jpeg(frame: Frame) -> bytes:
    """The picture that is shown as evidence."""
    out = io.BytesIO()
    Image.fromarray(frame.image).save(out, "JPEG", quality=PICTURE_QUALITY)
    return out.getvalue()
