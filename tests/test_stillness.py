"""The gate for still pictures: by hand, on the simulator's pictures through H.264, and in the ingest."""

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core import STILL_S, BadCamera, Camera, Frame
from pipeline.stillness import CELL, StillGate, cells
from simulator.codec import through_h264
from simulator.render import render
from simulator.visits import CAMERAS
from simulator.world import Site

EMPTY = np.full((360, 640, 3), 90, np.uint8)


def passed(images: Iterable[NDArray[np.uint8]], still_s: float = STILL_S) -> list[int]:
    """Which of pictures taken each second are passed."""
    gate = StillGate(still_s)
    return [i for i, image in enumerate(images) if gate.passes(Frame(camera_id="gate", pts_ns=0, captured_ms=i * 1000, image=image))]


def with_square(left: int, side: int = 2 * CELL, level: int = 130) -> NDArray[np.uint8]:
    image = EMPTY.copy()
    image[96 : 96 + side, left : left + side] = level
    return image


def test_a_still_camera_is_seen_every_so_often() -> None:
    assert passed([EMPTY] * 20) == [0, 8, 16]
    assert passed([EMPTY] * 5, still_s=0) == [0, 1, 2, 3, 4]


def test_what_comes_moves_and_goes_is_passed() -> None:
    assert passed([EMPTY, with_square(96), with_square(96), with_square(140), EMPTY, EMPTY]) == [0, 1, 3, 4]


def test_nothing_changes_too_slowly_to_be_noticed() -> None:
    steps = [with_square(96, level=90 + i) for i in range(8)]
    assert passed(steps) == [0, 7]  # each differs from the one before by a level only


def test_noise_and_the_cameras_own_clock_are_nothing() -> None:
    r = np.random.default_rng(0)
    noisy = [np.clip(EMPTY + r.normal(0, 12, EMPTY.shape), 0, 255).astype(np.uint8) for _ in range(6)]
    for i, image in enumerate(noisy):
        image[4:14, 300:308] = 255 * (i % 2)  # a digit
    assert passed(noisy) == [0]


def test_nothing_hides_in_a_change_of_exposure() -> None:
    darker = (with_square(96, level=60) * 0.6).astype(np.uint8)
    assert passed([EMPTY, with_square(96, level=60), darker, darker, EMPTY]) == [0, 1, 2, 4]


def test_a_picture_of_another_size_is_passed() -> None:
    assert passed([EMPTY, EMPTY[:180, :320], EMPTY[:180, :320]]) == [0, 1]
    assert passed([EMPTY[:4, :4]] * 3) == [0, 1, 2]  # too small to judge


def test_an_empty_site_is_still_through_h264_and_a_busy_one_is_not() -> None:
    empty, busy = Site(930_001, traffic=0.0), Site(930_001, traffic=1.5)
    for camera in CAMERAS:
        assert len(passed(through_h264((render(empty, camera, float(t)) for t in range(16)), quantizer=26))) <= 3, camera
    shown = [t for t in range(60) if any(s.visible > 0.5 and s.moving and 100 < s.x < 540 for s in busy.sightings("gate", float(t)))]
    kept = passed(through_h264((render(busy, "gate", float(t)) for t in range(60)), quantizer=26))
    assert len(shown) > 5 and set(shown) <= set(kept)


def test_a_camera_may_not_be_silent_for_so_long_that_it_is_a_gap() -> None:
    with pytest.raises(BadCamera, match="still_s must be from 0 to 8"):
        Camera(id="gate", uri="rtsp://gate/1", still_s=60)


def test_cells_are_mean_colours_and_what_is_left_at_the_edges_is_left_out() -> None:
    white = np.full((37, 50, 3), 255, np.uint8)
    white[16:32, 32:48, 1] = np.arange(256).reshape(16, 16)
    expected = np.full((2, 3, 3), 255.0)
    expected[1, 2, 1] = 127.5
    assert np.array_equal(cells(white), expected) and cells(white).dtype == np.float32
