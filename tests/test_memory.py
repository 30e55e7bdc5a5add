"""The live memory of one camera against the paper's policy, written down naively."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.memory import LiveMemory
from pipeline.core import Carrier, CarrierKey, TimeRange

# Short vectors of few values: neighbours exactly alike, opposite and zero all occur.
EMBEDDING = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=3, max_size=3)
STREAM = st.lists(EMBEDDING, max_size=40)
unhurried = settings(deadline=None)


def carrier(at_ms: int, embedding: list[float], camera: str = "gate") -> Carrier:
    return Carrier(
        key=CarrierKey(camera_id=camera, at_ms=at_ms),
        fingerprint="0" * 16,
        span=TimeRange(start_ms=at_ms, end_ms=at_ms),
        embedding=np.array(embedding, np.float32),
        kv=np.zeros((1, 2, 1, 2), np.float32),
    )


def likeness(a: Carrier, b: Carrier) -> float:
    x, y = a.embedding.astype(np.float64), b.embedding.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-12))


def naively(stream: list[Carrier], limit: int) -> tuple[list[Carrier], list[Carrier]]:
    """What is kept, and what went, by the paper: on overflow the older of the most similar ADJACENT pair goes."""
    kept: list[Carrier] = []
    gone = []
    for each in stream:
        kept.append(each)
        if len(kept) > limit:
            pairs = [likeness(kept[i], kept[i + 1]) for i in range(len(kept) - 1)]
            gone.append(kept.pop(pairs.index(max(pairs))))
    return kept, gone


@unhurried
@given(STREAM, st.integers(1, 12))
def test_the_older_of_the_most_alike_neighbours_goes(stream: list[list[float]], limit: int) -> None:
    carriers = [carrier(i, e) for i, e in enumerate(stream)]
    memory = LiveMemory(limit)
    gone = [evicted for each in carriers if (evicted := memory.add(each))]
    kept_naively, gone_naively = naively(carriers, limit)
    assert list(map(id, memory.carriers)) == list(map(id, kept_naively))
    assert list(map(id, gone)) == list(map(id, gone_naively))


@unhurried
@given(STREAM, st.integers(1, 12))
def test_the_limit_and_the_order_are_kept_and_the_newest_stays(stream: list[list[float]], limit: int) -> None:
    memory = LiveMemory(limit)
    for i, embedding in enumerate(stream):
        evicted = memory.add(carrier(10 * i, embedding))
        assert (evicted is not None) == (i >= limit)
        times = [kept.key.at_ms for kept in memory.carriers]
        assert len(memory) == len(times) == min(i + 1, limit)
        assert times == sorted(set(times))
        assert times[-1] == 10 * i


@unhurried
@given(STREAM, st.integers(1, 12))
def test_a_memory_recalled_goes_on_as_if_it_had_never_stopped(stream: list[list[float]], limit: int) -> None:
    carriers = [carrier(i, e) for i, e in enumerate(stream)]
    half = len(carriers) // 2
    never = LiveMemory(limit, carriers)
    restarted = LiveMemory(limit, LiveMemory(limit, carriers[:half]).carriers)
    for each in carriers[half:]:
        restarted.add(each)
    assert list(map(id, restarted.carriers)) == list(map(id, never.carriers))


@pytest.mark.parametrize("at_ms", [5, 4, -1])
def test_what_is_not_newer_is_refused_and_changes_nothing(at_ms: int) -> None:
    memory = LiveMemory(2, [carrier(0, [1, 0, 0]), carrier(5, [0, 1, 0])])
    before = memory.carriers
    with pytest.raises(ValueError, match="not newer"):
        memory.add(carrier(at_ms, [1, 1, 1]))
    assert memory.carriers == before
    memory.add(carrier(6, [1, 1, 1]))  # and its bookkeeping is whole
    assert len(memory) == 2


@pytest.mark.parametrize("limit", [0, -1])
def test_a_memory_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        LiveMemory(limit)
