"""The buffer before the store: what happens to writes when the store is slow, away or refuses."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import Carrier, CarrierKey, CarrierWrite, Gap, LongwatchError, StoreUnavailable, Superseded, TimeRange
from pipeline.writer import Writer

PATIENCE_S = 60.0  # until a condition that must come true is taken for one that never does


class Refused(LongwatchError):
    """The store will never take this."""


class Shelf:
    """A store in a list, that can be slow, away or refuse."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.batches: list[list[int]] = []  # as they were put, taken or not
        self.answers: list[Exception] = []  # to the next puts, instead of taking them
        self.away = False
        self._open = True
        self._changed = threading.Condition()

    def put(self, writes: Sequence[CarrierWrite]) -> None:
        with self._changed:
            batch = [write.carrier.key.at_ms for write in writes]
            self.batches.append(batch)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._open, PATIENCE_S)
            if self.answers:
                raise self.answers.pop(0)
            if self.away:
                raise StoreUnavailable("away")
            self.kept += batch
            self._changed.notify_all()

    def until(self, true: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(true, PATIENCE_S)

    @contextmanager
    def slow(self) -> Iterator[None]:
        """No put comes back inside."""
        with self._changed:
            self._open = False
        yield
        with self._changed:
            self._open = True
            self._changed.notify_all()


def write(at_ms: int, camera_id: str = "gate") -> CarrierWrite:
    carrier = Carrier(
        key=CarrierKey(camera_id=camera_id, at_ms=at_ms),
        fingerprint="0" * 16,
        span=TimeRange(start_ms=at_ms, end_ms=at_ms),
        embedding=np.zeros(1, np.float32),
        kv=np.zeros(1, np.float32),
    )
    return CarrierWrite(carrier=carrier, picture=b"", live=(at_ms,))


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 60), batch=st.integers(1, 20))
def test_what_waits_at_close_is_written_in_order_and_in_batches(count: int, batch: int) -> None:
    shelf = Shelf()
    writer = Writer(shelf.put, limit=100, batch=batch)
    for i in range(count):
        writer.write(write(i))
    writer.close(PATIENCE_S)
    assert shelf.kept == list(range(count))
    assert max(map(len, shelf.batches), default=0) <= batch
    assert writer.lost == 0


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 40), limit=st.integers(1, 10), batch=st.integers(1, 12))
def test_a_full_buffer_drops_the_oldest_that_wait_and_counts_each(count: int, limit: int, batch: int) -> None:
    shelf = Shelf()
    writer = Writer(shelf.put, limit=limit, batch=batch)
    with shelf.slow():
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        for i in range(1, count + 1):  # never blocks, though the store does
            writer.write(write(i))
    writer.close(PATIENCE_S)
    assert shelf.kept == [0] + list(range(1, count + 1))[-limit:]
    assert writer.lost + len(shelf.kept) == count + 1


def test_a_batch_is_put_again_until_the_store_is_back_and_nothing_is_lost_or_out_of_order() -> None:
    shelf = Shelf()
    shelf.away = True
    writer = Writer(shelf.put, batch=4, retry_s=0.001)
    for i in range(10):
        writer.write(write(i))
    shelf.until(lambda: len(shelf.batches) >= 4)
    shelf.away = False
    shelf.until(lambda: len(shelf.kept) == 10)
    writer.close(PATIENCE_S)
    assert shelf.kept == list(range(10))
    assert writer.lost == 0


def test_a_store_that_is_away_for_long_costs_the_oldest_and_memory_stays_bounded() -> None:
    shelf = Shelf()
    shelf.away = True
    writer = Writer(shelf.put, limit=8, batch=3, retry_s=0.001)
    for i in range(100):
        writer.write(write(i))
    tries = len(shelf.batches)
    shelf.until(lambda: len(shelf.batches) > tries + 2)  # whatever was under way has come back
    shelf.away = False
    shelf.until(lambda: shelf.kept[-1:] == [99])
    writer.close(PATIENCE_S)
    assert shelf.kept == list(range(92, 100))
    assert writer.lost == 92


@pytest.mark.parametrize("error", [Refused("odd"), ValueError("odd"), MemoryError()])
def test_a_batch_that_is_refused_is_dropped_counted_and_said_and_the_writer_goes_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf()
    writer = Writer(shelf.put, batch=3)
    with caplog.at_level(logging.WARNING), shelf.slow():
        shelf.answers = [error]
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        for i in range(1, 5):
            writer.write(write(i))
    writer.close(PATIENCE_S)
    assert shelf.kept == [1, 2, 3, 4]
    assert writer.lost == 1
    assert type(error).__name__ in caplog.text
    assert "1 carriers lost" in caplog.text


def test_the_whole_of_a_refused_batch_is_counted() -> None:
    shelf = Shelf()
    writer = Writer(shelf.put, batch=3)
    with shelf.slow():
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        for i in range(1, 6):
            writer.write(write(i))
        shelf.answers = [Refused("first"), Refused("second")]
    writer.close(PATIENCE_S)
    assert shelf.batches == [[0], [1, 2, 3], [4, 5]]
    assert shelf.kept == [4, 5]
    assert writer.lost == 4


def test_closing_while_the_store_is_away_does_not_wait_for_it_and_counts_what_is_lost() -> None:
    shelf = Shelf()
    shelf.away = True
    writer = Writer(shelf.put, batch=2, retry_s=3600)
    for i in range(5):
        writer.write(write(i))
    shelf.until(lambda: bool(shelf.batches))
    writer.close(PATIENCE_S)
    assert shelf.kept == []
    assert writer.lost == 5


def test_a_write_after_close_is_counted_as_lost() -> None:
    shelf = Shelf()
    writer = Writer(shelf.put)
    writer.close(PATIENCE_S)
    writer.write(write(0))
    assert (shelf.kept, writer.lost) == ([], 1)


def test_loss_is_said_again_each_time_it_has_doubled(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    writer = Writer(shelf.put, limit=1)
    with caplog.at_level(logging.WARNING), shelf.slow():
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        for i in range(1, 102):
            writer.write(write(i))
    writer.close(PATIENCE_S)
    assert writer.lost == 100
    assert len([said for said in caplog.records if said.name == "pipeline.writer"]) == 7  # at 1, 2, 4, 8, 16, 32, 64


def test_cameras_take_turns_and_a_batch_is_of_one() -> None:
    shelf = Shelf()
    writer = Writer(shelf.put, batch=2)
    with shelf.slow():
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        for i, camera_id in enumerate(["gate", "gate", "gate", "yard", "dock", "yard"], 1):
            writer.write(write(i, camera_id))
    writer.close(PATIENCE_S)
    assert shelf.batches == [[0], [1, 2], [4, 6], [5], [3]]


def test_a_camera_that_cannot_be_written_costs_no_other_its_place() -> None:
    shelf = Shelf()
    writer = Writer(shelf.put, limit=5)
    with shelf.slow():
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        writer.write(write(1, "yard"))
        for i in range(2, 12):
            writer.write(write(i))
    writer.close(PATIENCE_S)
    assert sorted(shelf.kept) == [0, 1, 8, 9, 10, 11] and writer.lost == 6


def test_what_was_lost_is_noted_once_by_camera_when_the_store_is_back() -> None:
    shelf, noted = Shelf(), list[Gap]()
    refusals = [StoreUnavailable("still away")]

    def note(gap: Gap) -> None:
        if refusals:
            raise refusals.pop()
        noted.append(gap)

    writer = Writer(shelf.put, note=note, limit=2, batch=1)
    with shelf.slow():
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        for i in range(1, 6):
            writer.write(write(i))
        writer.write(write(10, "yard"))
        shelf.answers = [Refused("odd")]
    writer.close(PATIENCE_S)
    assert writer.lost == 5 and sorted(shelf.kept) == [5, 10]
    assert [(gap.camera_id, gap.span.start_ms, gap.span.end_ms) for gap in noted] == [("gate", 0, 4)]
    assert noted[0].reason.startswith("5 moments")


def test_what_rests_on_superseded_memory_is_dropped_told_and_no_gap() -> None:
    shelf, told, noted = Shelf(), list[str](), list[Gap]()
    writer = Writer(shelf.put, note=noted.append, superseded=told.append, batch=1)
    with shelf.slow():
        shelf.answers = [Superseded("another prefiller has it")]
        writer.write(write(0))
        shelf.until(lambda: shelf.batches == [[0]])
        writer.write(write(1))
        writer.write(write(2, "yard"))
    writer.close(PATIENCE_S)
    assert (shelf.kept, told, noted, writer.lost) == ([2], ["gate"], [], 2)
