"""The bounded hand-over from camera threads to the prefill plane: newest wins, no camera starves another."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice

from pipeline.core import Frame


@dataclass(slots=True, kw_only=True)
class _Lane:
    """What waits of one camera, and what became of the rest."""

    waiting: deque[Frame] = field(default_factory=deque)
    dropped: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of all frames so far, those of cameras that have gone included."""

    taken: int = 0
    dropped: int = 0
    waited_s: float = 0.0  # for frames, by who takes them


class Handover:
    """A small queue per camera behind one condition. Thread-safe; `offer` never waits."""

    def __init__(self, depth: int = 2, clock_s: Callable[[], float] = time.monotonic) -> None:
        if depth < 1:
            raise ValueError("a hand-over holds at least one frame per camera")
        self._depth, self._clock_s = depth, clock_s
        self._tally = Tally()
        self._lanes: dict[str, _Lane] = {}
        self._turns: deque[str] = deque()  # cameras with something waiting, each once, next to be served first
        self._ready = threading.Condition()

    def offer(self, frame: Frame) -> None:
        """Put a frame; the oldest waiting one of that camera goes, and is counted, when there is no room."""
        with self._ready:
            lane = self._lanes.setdefault(frame.camera_id, _Lane())
            if not lane.waiting:
                self._turns.append(frame.camera_id)
            elif len(lane.waiting) == self._depth:
                lane.waiting.popleft()
                lane.dropped += 1
                self._tally = replace(self._tally, dropped=self._tally.dropped + 1)
            lane.waiting.append(frame)
            self._ready.notify_all()  # only one of those who wait takes of this camera

    def take(self, limit: int, timeout_s: float, wanted: Callable[[str], bool] = lambda camera_id: True) -> list[Frame]:
        """Up to `limit` frames of wanted cameras, each one's oldest, in turn; empty after `timeout_s` of nothing."""
        with self._ready:
            came_s = self._clock_s()
            self._ready.wait_for(lambda: any(map(wanted, self._turns)), timeout_s)
            served = list(islice(filter(wanted, self._turns), limit))
            self._turns = deque(camera_id for camera_id in self._turns if camera_id not in served)
            waited_s, taken = self._tally.waited_s + self._clock_s() - came_s, self._tally.taken + len(served)
            self._tally = replace(self._tally, waited_s=waited_s, taken=taken)
            frames = [self._pop(camera_id) for camera_id in served]
            self._turns.extend(camera_id for camera_id in served if self._lanes[camera_id].waiting)
            return frames

    def _pop(self, camera_id: str) -> Frame:
        lane = self._lanes[camera_id]
        lane.taken += 1
        return lane.waiting.popleft()

    @property
    def tally(self) -> Tally:
        """What became of all frames so far."""
        return self._tally

    def dropped(self, camera_id: str) -> int:
        """Frames of a camera that newer ones replaced."""
        with self._ready:
            return self._lanes[camera_id].dropped if camera_id in self._lanes else 0

    def taken(self, camera_id: str) -> int:
        """Frames of a camera that were taken."""
        with self._ready:
            return self._lanes[camera_id].taken if camera_id in self._lanes else 0

    def forget(self, camera_id: str) -> None:
        """Drop what waits of a camera, and its counts."""
        with self._ready:
            if self._lanes.pop(camera_id, None) and camera_id in self._turns:
                self._turns.remove(camera_id)
