"""The live memory of one camera against each of its policies, written down naively."""

from collections.abc import Iterable
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.memory import LiveMemory
from pipeline.core import Carrier, CarrierKey, LivePolicy, TimeRange

# Short vectors of few values: neighbours exactly alike, opposite and zero all occur.
EMBEDDING = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=3, max_size=3)
STREAM = st.lists(EMBEDDING, max_size=40)
EVERY_POLICY = pytest.mark.parametrize("policy", get_args(LivePolicy))
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


def goes_naively(policy: LivePolicy, kept: list[Carrier]) -> int:
    """Which of too many goes."""
    at = [c.key.at_ms for c in kept]
    if policy == "recency":
        return 0
    if policy == "uniform":
        inner = range(1, len(kept) - 1)
        return min(inner, key=lambda i: at[i + 1] - at[i - 1], default=0)
    alike = [likeness(a, b) for a, b in pairwise(kept)]
    if policy == "paper":
        return alike.index(max(alike))
    loss = [max(1 - like, 0.0) * (b - a) for like, (a, b) in zip(alike, pairwise(at), strict=True)]
    return loss.index(min(loss))


def naively(policy: LivePolicy, stream: list[Carrier], limit: int) -> tuple[list[Carrier], list[Carrier]]:
    """What is kept, and what went."""
    kept: list[Carrier] = []
    gone = []
    for each in stream:
        kept.append(each)
        if len(kept) > limit:
            gone.append(kept.pop(goes_naively(policy, kept)))
    return kept, gone


def keys(carriers: Iterable[Carrier]) -> list[CarrierKey]:
    return [c.key for c in carriers]


def uneven(stream: list[list[float]]) -> list[Carrier]:
    """Frames at uneven times, whose gaps repeat."""
    return [carrier(10 * i + 4 * (i % 3), e) for i, e in enumerate(stream)]


@EVERY_POLICY
@unhurried
@given(STREAM, st.integers(1, 12))
def test_what_goes_is_what_the_policy_says(policy: LivePolicy, stream: list[list[float]], limit: int) -> None:
    carriers = uneven(stream)
    memory = LiveMemory(limit, policy=policy)
    gone = [evicted for each in carriers if (evicted := memory.add(each))]
    kept_naively, gone_naively = naively(policy, carriers, limit)
    assert keys(memory.carriers) == keys(kept_naively)
    assert keys(gone) == keys(gone_naively)
    # Of every policy: what is kept is what was made, bit for bit.
    for ours, theirs in zip(memory.carriers, kept_naively, strict=True):
        assert ours.kv is theirs.kv and ours.embedding is theirs.embedding


@EVERY_POLICY
@unhurried
@given(STREAM, st.integers(1, 12))
def test_the_limit_and_the_order_are_kept_and_the_newest_stays(policy: LivePolicy, stream: list[list[float]], limit: int) -> None:
    memory = LiveMemory(limit, policy=policy)
    for i, embedding in enumerate(stream):
        evicted = memory.add(carrier(10 * i, embedding))
        assert (evicted is not None) == (i >= limit)
        times = [kept.key.at_ms for kept in memory.carriers]
        assert len(memory) == len(times) == min(i + 1, limit)
        assert times == sorted(set(times))
        assert times[-1] == 10 * i


@EVERY_POLICY
@unhurried
@given(STREAM, st.integers(1, 12))
def test_a_memory_recalled_goes_on_as_if_it_had_never_stopped(policy: LivePolicy, stream: list[list[float]], limit: int) -> None:
    """The store has carriers as they were made, with no span of a merger."""
    carriers = uneven(stream)
    made = {c.key: c for c in carriers}
    half = len(carriers) // 2
    never = LiveMemory(limit, carriers, policy)
    restarted = LiveMemory(limit, [made[key] for key in keys(LiveMemory(limit, carriers[:half], policy).carriers)], policy)
    for each in carriers[half:]:
        restarted.add(each)
    assert keys(restarted.carriers) == keys(never.carriers)


@unhurried
@given(STREAM, st.integers(1, 12))
def test_merged_carriers_share_all_time_and_others_stand_for_their_own(stream: list[list[float]], limit: int) -> None:
    carriers = uneven(stream)
    merged = LiveMemory(limit, carriers, "merge").carriers
    frames = [[c.key for c in carriers if c.key.at_ms in member.span] for member in merged]
    assert [key for own in frames for key in own] == keys(carriers)  # every frame in one span, in order
    assert [own[-1] for own in frames] == keys(merged)
    for policy in set(get_args(LivePolicy)) - {"merge"}:
        members = LiveMemory(limit, carriers, policy).carriers
        assert all(m.span.start_ms == m.span.end_ms == m.key.at_ms for m in members)


@unhurried
@given(st.integers(3, 12), st.integers(0, 300))
def test_an_even_spread_stays_even_for_ever(limit: int, more: int) -> None:
    memory = LiveMemory(limit, [carrier(i, [1, 0, 0]) for i in range(limit + more)], "uniform")
    times = [kept.key.at_ms for kept in memory.carriers]
    assert (times[0], times[-1]) == (0, limit + more - 1)
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) <= 3 * (limit + more - 1) / (limit - 1)


def test_mergers_are_of_what_is_alike_and_close_in_time() -> None:
    """The most alike are a minute apart: merged, one would stand for all of it."""
    far, near, newest = carrier(0, [1, 0, 0]), carrier(60_000, [1, 0.1, 0]), carrier(61_000, [1, 0.5, 0])
    assert likeness(far, near) > likeness(near, newest)
    assert keys(LiveMemory(2, [far, near, newest], "paper").carriers) == keys([near, newest])
    kept = LiveMemory(2, [far, near, newest], "merge").carriers
    assert keys(kept) == keys([far, newest])
    assert kept[1].span == TimeRange(start_ms=60_000, end_ms=61_000)


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
