"""From frames to carriers in the long-term memory: the whole of the prefill plane, in plain Python."""

import io
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from PIL import Image

from pipeline.core import Carrier, CarrierWrite, Frame

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

    def step(self, frames: Sequence[Frame]) -> list[Carrier]:
        """Prefill one batch. Raises StoreUnavailable when a camera's memory must be recalled and cannot be: these frames are lost."""
        fresh = [frame for frame in frames if self._is_newer(frame)]
        self.stale += len(frames) - len(fresh)
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

    def _is_newer(self, frame: Frame) -> bool:
        """A camera whose clock steps back is held until it has caught up, so that no memory is ever out of order."""
        if frame.camera_id not in self._memories:
            self._memories[frame.camera_id] = self._model.memory(self._recall(frame.camera_id))
        carriers = self._memories[frame.camera_id].carriers
        return not carriers or frame.captured_ms > carriers[-1].key.at_ms


def jpeg(frame: Frame) -> bytes:
    """The picture that is shown as evidence."""
    out = io.BytesIO()
    Image.fromarray(frame.image).save(out, "JPEG", quality=PICTURE_QUALITY)
    return out.getvalue()
