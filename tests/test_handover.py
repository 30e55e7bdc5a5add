"""The hand-over: bounded, newest wins, fair."""

import threading
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import Frame
from pipeline.handover import Handover

PIXEL = np.zeros((2, 4, 3), np.uint8)


def frame(camera_id: str, number: int = 0) -> Frame:
    return Frame(camera_id=camera_id, pts_ns=number, captured_ms=number, image=PIXEL)


def taken(handover: Handover, limit: int = 10) -> list[tuple[str, int]]:
    return [(f.camera_id, f.captured_ms) for f in handover.take(limit, 0)]


def test_newest_wins_and_the_loss_is_counted() -> None:
    handover = Handover(depth=2)
    for number in range(5):
        handover.offer(frame("dock", number))
    assert handover.dropped("dock") == 3
    assert [taken(handover), taken(handover), taken(handover)] == [[("dock", 3)], [("dock", 4)], []]
    assert (handover.taken("dock"), handover.dropped("gate")) == (2, 0)


def test_a_full_camera_costs_no_other_camera_a_frame() -> None:
    handover = Handover(depth=1)
    handover.offer(frame("gate"))
    for number in range(9):
        handover.offer(frame("dock", number))
    assert handover.dropped("gate") == 0
    assert taken(handover) == [("gate", 0), ("dock", 8)]


def test_cameras_take_turns_when_the_batch_is_small() -> None:
    handover = Handover(depth=2)
    for camera_id in "abc":
        handover.offer(frame(camera_id, 1))
        handover.offer(frame(camera_id, 2))
    assert [taken(handover, 2) for _ in range(3)] == [[("a", 1), ("b", 1)], [("c", 1), ("a", 2)], [("b", 2), ("c", 2)]]


def test_forgetting_a_camera_drops_its_frames_and_counts() -> None:
    handover = Handover(depth=1)
    for number in range(2):
        handover.offer(frame("dock", number))
    handover.forget("dock")
    handover.forget("dock")
    assert (taken(handover), handover.dropped("dock")) == ([], 0)


def test_take_waits_for_a_frame_and_no_longer() -> None:
    handover = Handover()
    timer = threading.Timer(0.05, handover.offer, [frame("dock", 7)])
    timer.start()
    assert [f.captured_ms for f in handover.take(1, 30)] == [7]
    assert handover.take(1, 0.01) == []


def test_no_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Handover(depth=0)


OPERATION = st.one_of(st.sampled_from("abcd"), st.integers(1, 5), st.sampled_from("abcd").map(lambda id_: f"forget {id_}"))


@settings(deadline=None)
@given(depth=st.integers(1, 3), operations=st.lists(OPERATION, max_size=80))
def test_it_is_bounded_in_order_and_fair_whatever_happens(depth: int, operations: list[str | int]) -> None:
    handover = Handover(depth)
    waiting: dict[str, deque[int]] = {}
    passed_over: dict[str, int] = {}
    for number, operation in enumerate(operations):
        if isinstance(operation, int):
            batch = taken(handover, operation)
            cameras = [camera_id for camera_id, _ in batch]
            had = [camera_id for camera_id, lane in waiting.items() if lane]
            assert len(set(cameras)) == len(cameras) == min(operation, len(had))
            assert all(waiting[camera_id].popleft() == at_ms for camera_id, at_ms in batch)
            for camera_id in had:
                passed_over[camera_id] = 0 if camera_id in cameras else passed_over.get(camera_id, 0) + len(batch)
            assert all(skipped <= 3 for skipped in passed_over.values()), "four cameras: three others go first at most"
        elif operation.startswith("forget "):
            waiting.pop(operation[-1], None)
            passed_over.pop(operation[-1], None)
            handover.forget(operation[-1])
        else:
            handover.offer(frame(operation, number))
            waiting.setdefault(operation, deque(maxlen=depth)).append(number)
