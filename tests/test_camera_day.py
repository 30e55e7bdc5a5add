"""A day of one camera through gate, prefiller, writer and a real Redis, in small: nothing is lost, and repeats are told apart."""

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from carriers import FINGERPRINT
from numpy.typing import NDArray

from bench import camera_day, memory
from pipeline.core import Carrier, CarrierKey, Frame, TimeRange
from pipeline.prefiller import LiveMemory
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

EMPTY = np.full((360, 640, 3), 90, np.uint8)


class Recent:
    """The last four."""

    def __init__(self, carriers: Sequence[Carrier]) -> None:
        self.carriers = tuple(carriers)

    def add(self, carrier: Carrier) -> Carrier | None:
        self.carriers = (*self.carriers, carrier)[-4:]
        return None


class Numbers:
    """A model whose carriers are their times."""

    def memory(self, carriers: Sequence[Carrier] = ()) -> LiveMemory:
        return Recent(carriers)

    def prefill(self, frames: Sequence[Frame], memories: Sequence[LiveMemory]) -> list[Carrier]:
        return [_carrier(frame) for frame in frames]


def _carrier(frame: Frame) -> Carrier:
    key = CarrierKey(camera_id=frame.camera_id, at_ms=frame.captured_ms)
    span = TimeRange(start_ms=key.at_ms, end_ms=key.at_ms)
    kv = np.full((1, 2, 1, 8), key.at_ms % 1000, np.float32)
    return Carrier(key=key, fingerprint=FINGERPRINT, span=span, embedding=kv[0, 0, 0], kv=kv)


def with_square(left: int) -> NDArray[np.uint8]:
    image = EMPTY.copy()
    image[96:160, left : left + 64] = 200
    return image


def test_every_picture_is_kept_whole_repeated_or_held_back(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, codec=memory.CODEC)
    still, busy = [[EMPTY] * 60], [[with_square(i * 9) for i in range(60)]]
    rows = list(camera_day.run(Numbers(), store, raw, camera_day.played(still, busy), 480))
    assert len(rows) == camera_day.PARTS
    pictures, carriers, whole, repeats = rows[-1][:4]
    assert pictures == 480 and carriers == whole + repeats == len(store.times("gate"))  # type: ignore[operator]
    pieces = camera_day.played(["s"], ["b"])  # type: ignore[list-item]
    busy_minutes = "".join(islice(pieces, 8)).count("b")  # type: ignore[arg-type]
    assert busy_minutes and whole >= 60 * busy_minutes and 0 < repeats < carriers < 480  # type: ignore[operator]
    store.close()


def test_what_is_missing_at_the_end_is_told(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT)
    day = camera_day.Day(Numbers(), store, time.time_ns() // 1_000_000 - 60_000)
    day.push([with_square(i * 50) for i in range(5)])
    day.writer.close(timeout_s=60)
    camera_day.check(store, day.tally)
    raw.unlink(sorted(raw.scan_iter("*:kv:*"))[2])  # none at an end: an index that begins with what is gone is trimmed
    with pytest.raises(camera_day.Lost, match="5 were written, 5 are there, 1 of 5 unreadable"):
        camera_day.check(store, day.tally)
    store.close()
