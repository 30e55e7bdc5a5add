"""What happens when the prefill plane does not keep up: all cameras are sampled less, alike, and it is said."""

import logging
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from carriers import eventually

from pipeline.core import Camera, Frame
from pipeline.handover import Handover
from pipeline.ingest import Ingest, Pacing
from pipeline.pace import LEAST, RISE, WINDOW_S, Pace
from pipeline.sampling import Thinned

PIXEL = np.zeros((2, 4, 3), np.uint8)


class Watch:
    """A hand-over and its pace, in a time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._told: list[float] = []
        self.handover = Handover(depth=1, clock_s=self._clock)
        self.pace = Pace(self.handover, self._clock)

    def _clock(self) -> float:
        return self._told.pop(0) if self._told else self.now_s

    def window(self, *, taken: int, dropped: int = 0, busy: float = 1.0) -> None:
        """So many frames were taken and dropped in the next window, in `busy` of which who takes them did not wait."""
        for _ in range(taken):
            self.handover.offer(frame("gate"))
            self.handover.take(9, 0)
        for _ in range(dropped + 1 if dropped else 0):
            self.handover.offer(frame("yard"))
        if taken:
            self._told = [self.now_s, self.now_s + WINDOW_S * (1 - busy)]  # comes, and has waited
            self.handover.take(1, 0)
        self.now_s += WINDOW_S
        self.pace.look()


def frame(camera_id: str, at_ms: int = 0) -> Frame:
    return Frame(camera_id=camera_id, pts_ns=0, captured_ms=at_ms, image=PIXEL)


def test_all_is_sampled_while_prefill_keeps_up() -> None:
    watch = Watch()
    for busy in (0.1, 0.7, 1.0):
        watch.window(taken=100, dropped=4, busy=busy)
        assert watch.pace.share == 1


def test_after_two_windows_that_were_missed_less_is_sampled_by_what_was_missed(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    with caplog.at_level(logging.WARNING):
        watch.window(taken=60, dropped=40)
        assert watch.pace.share == 1 and not caplog.messages, "a restart looks the same"
        watch.window(taken=60, dropped=40)
    assert watch.pace.share == pytest.approx(0.6, abs=0.01)
    assert len(caplog.messages) == 1 and "all cameras are now sampled at 60 % of their rates" in caplog.messages[0]
    for _ in range(20):
        watch.window(taken=10, dropped=90)
    assert watch.pace.share == LEAST


def test_more_is_sampled_again_where_there_is_room_and_not_before() -> None:
    watch = Watch()
    for _ in range(4):
        watch.window(taken=50, dropped=50)
    low = watch.pace.share
    watch.window(taken=100, busy=0.9)
    assert watch.pace.share == low < 0.3
    watch.window(taken=100, busy=0.5)
    assert watch.pace.share == pytest.approx(low * RISE)
    for _ in range(9):
        watch.window(taken=100, busy=0.5)
    assert watch.pace.share == 1


def test_while_nobody_takes_a_frame_nothing_is_judged() -> None:
    watch = Watch()
    for _ in range(9):
        watch.window(taken=0, dropped=50)
    assert (watch.pace.share, watch.pace.room) == (1, None)


@pytest.mark.parametrize(("busy", "room"), [(0.5, None), (0.9, 100 / WINDOW_S / 9), (1.0, 0.0)])
def test_room_is_told_where_it_can_be_foreseen(busy: float, room: float | None) -> None:
    watch = Watch()
    watch.window(taken=100, busy=busy)
    assert watch.pace.room == (None if room is None else pytest.approx(room, rel=0.02, abs=1e-6))


@pytest.mark.parametrize(("share", "kept"), [(1.0, 100), (0.6, 60), (0.25, 25)])
def test_pictures_are_thinned_evenly(share: float, kept: int) -> None:
    thinned = Thinned(4)
    times = np.array([at_ms for at_ms in range(0, 25_000, 250) if thinned.takes(at_ms, share)])
    assert len(times) == pytest.approx(kept, abs=1)
    assert np.ptp(np.diff(times)) <= 250


def test_a_camera_goes_on_at_the_rate_of_the_moment() -> None:
    thinned = Thinned(1)
    times = [at_s for at_s in range(60) if thinned.takes(1000 * at_s, 0.5 if 20 <= at_s < 40 else 1.0)]
    assert [sum(start <= at_s < start + 20 for at_s in times) for start in (0, 20, 40)] == [20, 10, 20]


class Endless:
    """A camera that gives a picture whenever it is asked, a quarter of a second apart by its own clock."""

    def __init__(self, camera: Camera) -> None:
        self._camera, self._closed = camera, threading.Event()

    def frames(self) -> Iterator[Frame]:
        at_ms = 0
        while not self._closed.wait(0.001):
            at_ms += 250
            yield frame(self._camera.id, at_ms)

    def close(self) -> None:
        self._closed.set()


def test_an_ingest_whose_frames_are_not_taken_in_time_samples_its_cameras_less_and_says_so() -> None:
    passed = iter(range(10**9))
    ingest = Ingest(source=Endless, pacing=Pacing(clock_s=lambda: 0.01 * next(passed)))
    ingest.reconcile([Camera(id=name, uri="rtsp://x", fps=4, still_s=0) for name in ("gate", "yard")])
    try:

        def behind() -> bool:
            ingest.take(1, 1)
            ingest.look()
            return all(status.share < 0.5 for status in ingest.statuses())

        eventually(behind)
        apart = {after.captured_ms - before.captured_ms for before, after in _pairs(ingest)}
        assert min(apart) > 250, "every other picture at most"
    finally:
        ingest.close()


def _pairs(ingest: Ingest) -> list[tuple[Frame, Frame]]:
    """Neighbours of one camera, as they come once what had waited is gone."""
    for _ in range(8):
        ingest.take(9, 1)
    gate = [one for _ in range(40) for one in ingest.take(9, 1) if one.camera_id == "gate"]
    return list(zip(gate, gate[1:], strict=False))
