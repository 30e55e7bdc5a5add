"""From frames to carriers in the long-term memory: the whole of the prefill plane, in plain Python."""

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from pipeline.core import Carrier, CarrierWrite, Claim, Frame, StoreUnavailable, Superseded
from pipeline.stillness import Unchanged

log = logging.getLogger(__name__)

PICTURE_QUALITY = 80
REPEAT_MS = 60_000  # a still minute is one carrier and one picture; no picture that is shown is older than that


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


@dataclass(slots=True, kw_only=True)
class _Camera:
    """What a prefiller has of one camera."""

    grant: int
    claim: Claim | None
    memory: LiveMemory
    newest_ms: int | None  # what it remembers last
    unchanged: Unchanged = field(default_factory=lambda: Unchanged(REPEAT_MS))


class Prefiller:
    """Turns batches of frames, at most one a camera, into carriers. Not thread-safe.

    `recall` gives a camera's live memory as the store has it, its last span up to the newest moment that was kept, so that a
    restarted prefiller goes on where the last one stopped; `claim`, called before with the number of the grant, takes the right to
    write it; `write` takes what is to be kept and must not block.
    """

    def __init__(
        self,
        model: Model,
        recall: Callable[[str], Sequence[Carrier]],
        write: Callable[[CarrierWrite], None],
        claim: Callable[[str, int], Claim] | None = None,
    ) -> None:
        self._model = model
        self._recall = recall
        self._write = write
        self._claim = claim
        self._cameras: dict[str, _Camera] = {}
        self._grants: Mapping[str, int] = {}
        self._refused: set[str] = set()  # cameras whose grant the store does not accept
        self.stale = 0  # frames not newer than what their camera remembers
        self.skipped = 0  # frames of cameras whose memory could not be recalled, or is another prefiller's

    def step(self, frames: Sequence[Frame]) -> list[Carrier]:
        """Prefill one batch. A frame whose camera's memory cannot be recalled now is skipped; the other cameras do not wait for it."""
        ready = [(frame, camera) for frame in frames if (camera := self._camera(frame.camera_id))]
        fresh = [(frame, camera) for frame, camera in ready if _is_newer(frame, camera)]
        self.skipped += len(frames) - len(ready)
        self.stale += len(ready) - len(fresh)
        if not fresh:
            return []
        carriers = self._model.prefill([frame for frame, _ in fresh], [camera.memory for _, camera in fresh])
        for (frame, camera), carrier in zip(fresh, carriers, strict=True):
            repeats = camera.unchanged.since(frame)
            if repeats is None:
                camera.memory.add(carrier)
            camera.newest_ms = frame.captured_ms
            live = tuple(kept.key.at_ms for kept in camera.memory.carriers)
            write = CarrierWrite(carrier=carrier, picture=jpeg(frame), live=live, claim=camera.claim, repeats=repeats)
            self._write(write)
        return carriers

    @property
    def holding(self) -> dict[str, int]:
        """The cameras whose live memory is here, by the number of their grant; 0 where the store has accepted a later one."""
        return {camera_id: camera.grant for camera_id, camera in list(self._cameras.items())} | dict.fromkeys(self._refused, 0)

    def keep_only(self, grants: Mapping[str, int]) -> None:
        """Drop the live memories of all other cameras, and of those granted anew; a frame recalls its camera's from the store."""
        for camera_id, grant in self.holding.items():
            if grants.get(camera_id) != grant:
                self.drop(camera_id)
        self._refused = {camera_id for camera_id in self._refused if self._grants.get(camera_id) == grants.get(camera_id)}
        self._grants = grants

    def drop(self, camera_id: str) -> None:
        """Drop one live memory: what the store has of it is no longer the same. From any thread."""
        self._cameras.pop(camera_id, None)

    def _camera(self, camera_id: str) -> _Camera | None:
        if camera_id not in self._cameras:
            try:
                self._cameras[camera_id] = self._recalled(camera_id, self._grants.get(camera_id, 0))
            except (StoreUnavailable, Superseded) as error:
                log.warning("the memory of %s cannot be recalled now: %s", camera_id, error)
                self._refused |= {camera_id} if isinstance(error, Superseded) else set()
        return self._cameras.get(camera_id)

    def _recalled(self, camera_id: str, grant: int) -> _Camera:
        claim = self._claim(camera_id, grant) if self._claim else None  # first: then nobody else adds to what is recalled
        recalled = self._recall(camera_id)
        newest_ms = recalled[-1].span.end_ms if recalled else None
        return _Camera(grant=grant, claim=claim, memory=self._model.memory(recalled), newest_ms=newest_ms)


def _is_newer(frame: Frame, camera: _Camera) -> bool:
    """A camera whose clock steps back is held until it has caught up, so that no memory is ever out of order."""
    return camera.newest_ms is None or frame.captured_ms > camera.newest_ms


def jpeg(frame: Frame) -> bytes:
    """The picture that is shown as evidence."""
    out = io.BytesIO()
    Image.fromarray(frame.image).save(out, "JPEG", quality=PICTURE_QUALITY)
    return out.getvalue()
