"""A bounded buffer between the prefill plane and the store, so that a slow or dead store never holds up a frame."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from pipeline.core import CarrierWrite, StoreUnavailable

log = logging.getLogger(__name__)

RETRY_S = 1.0


class Writer:
    """Writes in the background, in order. When the buffer is full the oldest waiting write is dropped and counted.

    A batch is put again for as long as the store is unavailable. One that the store refuses for any other reason is dropped and
    counted, so that it does not hold up what follows. Every write is in the end either kept or counted in `lost`.
    """

    def __init__(
        self, put: Callable[[Sequence[CarrierWrite]], None], *, limit: int = 512, batch: int = 16, retry_s: float = RETRY_S
    ) -> None:
        self._put = put
        self._batch = batch
        self._waiting: deque[CarrierWrite] = deque()
        self._limit = limit
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._closed = False
        self.lost = 0  # dropped: the store was away for too long, or refused them
        self._thread = threading.Thread(target=self._run, name="carrier-writer", daemon=True)
        self._thread.start()

    def write(self, write: CarrierWrite) -> None:
        """Take a write; never blocks. Once closed, it is lost."""
        with self._changed:
            if self._closed:
                self._lose(1, "the writer is closed")
                return
            self._waiting.append(write)
            self._trim()
            self._changed.notify()

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
            except Exception as error:  # noqa: BLE001 - the one place that keeps the writer alive
                with self._changed:
                    self._lose(len(batch), f"the store refused them: {type(error).__name__}: {error}")

    def _take(self) -> list[CarrierWrite]:
        """The oldest waiting writes; none once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]

    def _put_back(self, batch: Sequence[CarrierWrite]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed(batch))
            self._trim()

    def _pause(self, error: StoreUnavailable) -> bool:
        """Wait before the next try; false when closed, for then there is none."""
        with self._changed:
            log.warning("%s; %d carriers wait", error, len(self._waiting))
            self._changed.wait_for(lambda: self._closed, self._retry_s)
            if self._closed and self._waiting:
                self._lose(len(self._waiting), "the store is away and the writer is closed")
                self._waiting.clear()
            return not self._closed

    def _trim(self) -> None:
        while len(self._waiting) > self._limit:
            self._waiting.popleft()
            self._lose(1, "the store is behind")

    def _lose(self, count: int, why: str) -> None:
        before, self.lost = self.lost, self.lost + count
        if before.bit_length() != self.lost.bit_length():  # said at 1, 2, 4, 8, ...
            log.warning("%s: %d carriers lost so far", why, self.lost)
