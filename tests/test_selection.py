"""Selection: what an answer looks at when it cannot look at everything."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import CarrierKey
from pipeline.selection import Candidates, select


def camera(count: int, *, start: int = 0, relevant: dict[int, float] | None = None, scored: bool = True) -> Candidates:
    """One carrier a second; those in `relevant` score so much, the others little."""
    scores = np.full(count, 0.01, np.float32)
    for i, score in (relevant or {}).items():
        scores[i] = score
    return Candidates(at_ms=start + 1000 * np.arange(count), scores=scores if scored else None)


def seconds(keys: list[CarrierKey], name: str) -> list[int]:
    return [key.at_ms // 1000 for key in keys if key.camera_id == name]


def test_all_when_they_fit() -> None:
    keys = select({"gate": camera(10), "yard": camera(5, start=500)}, budget=15)
    assert len(keys) == 15
    assert keys == sorted(keys, key=lambda k: k.at_ms)


def test_an_event_of_five_seconds_in_a_day_is_found_with_its_neighbours() -> None:
    keys = select({"gate": camera(86_400, relevant=dict.fromkeys(range(40_000, 40_005), 0.9))}, budget=64)
    assert set(range(39_999, 40_006)) <= set(seconds(keys, "gate"))


def test_the_latest_of_what_is_seen_all_day_is_among_them() -> None:
    often = {i: 0.99 - i / 1e6 for i in range(0, 80_000, 100)}  # the surest are the oldest
    keys = select({"gate": camera(86_400, relevant=often)}, budget=64)
    assert max(often) in seconds(keys, "gate")
    assert 86_399 in seconds(keys, "gate")


def test_every_camera_keeps_its_newest() -> None:
    hits = dict.fromkeys(range(100, 400), 0.9)
    keys = select({"gate": camera(5000, relevant=hits), "yard": camera(5000), "dock": camera(3)}, budget=32)
    assert all(end in seconds(keys, name) for name, end in (("gate", 4999), ("yard", 4999), ("dock", 2)))


def test_without_scores_they_are_evenly_spread() -> None:
    times = seconds(select({"gate": camera(10_000, scored=False)}, budget=101), "gate")
    gaps = np.diff(times)
    assert len(times) == 101
    assert gaps.max() <= 1.1 * np.median(gaps)


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    budget=st.integers(1, 40),
    seed=st.integers(0, 99),
    scored=st.booleans(),
)
def test_the_budget_is_used_and_never_exceeded(counts: list[int], budget: int, seed: int, scored: bool) -> None:
    r = np.random.default_rng(seed)
    cameras = {
        f"c{i}": Candidates(at_ms=np.sort(r.choice(10_000, n, replace=False)), scores=r.random(n, np.float32) if scored else None)
        for i, n in enumerate(counts)
    }
    keys = select(cameras, budget)
    assert len(keys) == min(budget, sum(counts))
    assert len(set(keys)) == len(keys)
    assert all(key.at_ms in cameras[key.camera_id].at_ms for key in keys)
    assert keys == sorted(keys, key=lambda k: (k.at_ms, k.camera_id))
