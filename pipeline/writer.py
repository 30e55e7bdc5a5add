"""A bounded buffer between the prefill plane and the store, so that a slow or dead store never holds up a frame."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pipeline.core import CarrierWrite, Gap, StoreUnavailable, Superseded, TimeRange

log = logging.getLogger(__name__)

RETRY_S = 1.0


class Writer:
    """Writes in the background, each camera's in order, the cameras in turn. When the buffer is full, the oldest write of the camera
    that has most waiting is dropped and counted.

    A batch is put again for as long as the store is unavailable. One that the store refuses for any other reason is dropped and
    counted, so that it does not hold up what follows. Every write is in the end either kept or counted in `lost`, and what is lost is
    told to `note`, one gap a camera, as soon as the store takes writes again. `superseded` hears of cameras whose memory is no longer
    what their writes rest on; all that waits of them is dropped, and that is no gap.
    """

    def __init__(
        self,
        put: Callable[[Sequence[CarrierWrite]], None],
        *,
        note: Callable[[Gap], None] = lambda gap: None,
        superseded: Callable[[str], None] = lambda camera_id: None,
        limit: int = 512,
        batch: int = 64,
        retry_s: float = RETRY_S,
    ) -> None:
        self._put = put
        self._note = note
        self._superseded = superseded
        self._batch = batch
        self._waiting: dict[str, deque[CarrierWrite]] = {}  # by camera, next to be served first; none empty
        self._limit = limit
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._closed = False
        self.lost = 0  # dropped: the store was away for too long, or refused them
        self._losses: dict[str, tuple[TimeRange, int, str]] = {}  # by camera, not yet noted: when, how many, why
        self._thread = threading.Thread(target=self._run, name="carrier-writer", daemon=True)
        self._thread.start()

    def write(self, write: CarrierWrite) -> None:
        """Take a write; never blocks. Once closed, it is lost."""
        with self._changed:
            if self._closed:
                self._lose([write], "the writer is closed")
                return
            self._waiting.setdefault(_camera(write), deque()).append(write)
            self._trim()
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Writes that wait for the store."""
        with self._changed:
            return self._size()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, if the store takes it in time, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._put(batch)
            except StoreUnavailable as error:
                self._put_back(batch)
                if not self._pause(error):
                    return
            except Superseded as error:
                self._drop(batch, error)
            except Exception as error:  # noqa: BLE001 - the one place that keeps the writer alive
                with self._changed:
                    self._lose(batch, f"the store refused them: {type(error).__name__}: {error}")
            else:
                self._tell()

    def _take(self) -> list[CarrierWrite]:
        """The oldest waiting writes of the camera whose turn it is; none once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            camera_id = next(iter(self._waiting))
            waiting = self._waiting.pop(camera_id)
            batch = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
            if waiting:
                self._waiting[camera_id] = waiting
            return batch

    def _put_back(self, batch: Sequence[CarrierWrite]) -> None:
        with self._changed:
            self._waiting.setdefault(_camera(batch[0]), deque()).extendleft(reversed(batch))
            self._trim()

    def _drop(self, batch: Sequence[CarrierWrite], error: Superseded) -> None:
        camera_id = _camera(batch[0])
        with self._changed:
            dropped = [*batch, *self._waiting.pop(camera_id, ())]
            self._count(len(dropped), str(error))
        self._superseded(camera_id)

    def _pause(self, error: StoreUnavailable) -> bool:
        """Wait before the next try; false when closed, for then there is none."""
        with self._changed:
            log.warning("%s; %d carriers wait", error, self._size())
            self._changed.wait_for(lambda: self._closed, self._retry_s)
            if self._closed:
                for waiting in self._waiting.values():
                    self._lose(waiting, "the store is away and the writer is closed")
                self._waiting.clear()
            return not self._closed

    def _tell(self) -> None:
        """Note what was lost, now that the store takes writes."""
        with self._changed:
            losses = dict(self._losses)
        for camera_id, (span, count, why) in losses.items():
            try:
                self._note(Gap(camera_id=camera_id, span=span, reason=f"{count} moments were seen and could not be kept: {why}"))
            except StoreUnavailable:
                return
            with self._changed:
                if self._losses[camera_id] == losses[camera_id]:  # else it has grown, and is noted once more
                    del self._losses[camera_id]

    def _trim(self) -> None:
        while self._size() > self._limit:
            camera_id = max(self._waiting, key=lambda each: len(self._waiting[each]))
            self._lose([self._waiting[camera_id].popleft()], "the memory could not be reached, or was behind")
            if not self._waiting[camera_id]:
                del self._waiting[camera_id]

    def _size(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _lose(self, writes: Iterable[CarrierWrite], why: str) -> None:
        writes = list(writes)
        self._count(len(writes), why)
        for write in writes:
            span, count, _ = self._losses.get(_camera(write), (write.carrier.span, 0, why))
            span = replace(
                span, start_ms=min(span.start_ms, write.carrier.span.start_ms), end_ms=max(span.end_ms, write.carrier.span.end_ms)
            )
            self._losses[_camera(write)] = (span, count + 1, why)

    def _count(self, count: int, why: str) -> None:
        before, self.lost = self.lost, self.lost + count
        if before.bit_length() != self.lost.bit_length():  # said at 1, 2, 4, 8, ...
            log.warning("%s: %d carriers lost so far", why, self.lost)


def _camera(write: CarrierWrite) -> str:
    return write.carrier.key.camera_id
