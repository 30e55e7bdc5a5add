"""What the benches of still times count, by hand."""

from itertools import islice
from random import Random
from typing import Any, cast

import numpy as np
from carriers import carrier
from numpy.typing import NDArray

from bench.still_questions import MARGIN_S, SECONDS, sparingly, still_times
from bench.stillness import Sieve, row
from model.videoscan import VideoScan
from pipeline.core import Carrier, Frame

EMPTY = np.full((360, 640, 3), 90, np.uint8)
VISITED = EMPTY.copy()
VISITED[96:160, 96:160] = 200


def frame(second: int, image: NDArray[np.uint8] = EMPTY) -> Frame:
    return Frame(camera_id="gate", pts_ns=0, captured_ms=second * 1000, image=image)


def test_what_only_a_repeat_would_show_is_missed_by_both_and_what_is_held_back_by_the_gate_too() -> None:
    sieve = Sieve()
    for second in range(20):
        sieve.take(frame(second, VISITED if second == 13 else EMPTY), second)
    assert (sieve.passed, sieve.whole) == ({0, 8, 13, 14}, {0, 13, 14})
    held_back, repeated, whole = [3.0, 4.0], [7.0, 8.0, 9.0], [12.0, 13.0]
    assert sieve.missed([held_back, repeated, whole]) == (1, 2)
    assert row("a", (20, 4, 3, 3, 1, 2)) == ["a", 20, 4, 0.8, 3, 0.25, 3, 1, 2]


class Memory(list[Carrier]):
    """All that was added."""

    def add(self, one: Carrier) -> None:
        self.append(one)


class Scan:
    """A model whose carriers are known by their times."""

    def __init__(self) -> None:
        self.memories: list[Memory] = []

    def memory(self) -> Memory:
        self.memories.append(Memory())
        return self.memories[-1]

    def prefill(self, frames: list[Frame], memories: Any) -> list[Carrier]:
        return [carrier(each.captured_ms, "gate") for each in frames]


def test_repeats_have_their_own_times_and_the_numbers_of_the_first() -> None:
    scan = Scan()
    kept, whole = sparingly(cast(VideoScan, scan), [frame(second, VISITED if second == 13 else EMPTY) for second in range(30)])
    assert ([one.key.at_ms for one in kept], whole) == ([0, 8000, 13_000, 14_000, 22_000], 3)
    assert kept[1].kv is kept[0].kv and kept[4].kv is kept[3].kv
    assert (kept[4].span.start_ms, kept[4].span.end_ms) == (14_000, 22_000)
    assert [one.key.at_ms for one in scan.memories[0]] == [0, 13_000, 14_000]


def test_a_still_time_has_one_visitor_well_within() -> None:
    for site, camera, at in islice(still_times(Random(0)), 3):
        seen = [i for i, t in enumerate(at) if site.sightings(camera, t)]
        assert len(at) == SECONDS and MARGIN_S <= seen[0] <= seen[-1] < SECONDS - MARGIN_S
        assert len({sighting.id for t in at for sighting in site.sightings(camera, t)}) == 1
