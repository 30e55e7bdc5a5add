"""Selection: what an answer looks at when it cannot look at everything."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import CarrierKey
from pipeline.selection import NEAR_MS, TOP, Candidates, joined, passages, select, steadied


def camera(count: int, *, start: int = 0, relevant: dict[int, float] | None = None, scored: bool = True) -> Candidates:
    """One carrier a second; those in `relevant` score so much, the others little."""
    scores = np.full(count, -5, np.float32)
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
    keys = select({"gate": camera(86_400, relevant=dict.fromkeys(range(40_000, 40_005), 2.0))}, budget=64)
    assert set(range(39_999, 40_006)) <= set(seconds(keys, "gate"))


def test_the_latest_of_what_is_seen_all_day_is_among_them() -> None:
    often = {i: 5 - i / 1e5 for i in range(0, 80_000, 100)}  # the surest are the oldest
    keys = select({"gate": camera(86_400, relevant=often)}, budget=64)
    assert max(often) in seconds(keys, "gate")
    assert 86_399 in seconds(keys, "gate")


def test_every_camera_keeps_its_newest() -> None:
    hits = dict.fromkeys(range(100, 400), 2.0)
    keys = select({"gate": camera(5000, relevant=hits), "yard": camera(5000), "dock": camera(3)}, budget=32)
    assert all(end in seconds(keys, name) for name, end in (("gate", 4999), ("yard", 4999), ("dock", 2)))


def test_as_many_of_the_newest_as_are_wanted_are_taken_while_they_leave_room() -> None:
    hits = dict.fromkeys(range(100, 400), 2.0)
    one = {"gate": camera(5000, relevant=hits)}
    assert set(range(4996, 5000)) <= set(seconds(select(one, 32, recent=4), "gate"))
    assert not {4996, 4997} & set(seconds(select(one, 32), "gate"))  # 4998 ends what is spread evenly
    several = {name: camera(5000, relevant=hits) for name in ("gate", "yard", "dock")}
    keys = select(several, 32, recent=4)  # a quarter: two of each, and of two the third; one that is spread evenly comes behind
    assert all({4998, 4999} <= set(seconds(keys, name)) and 4996 not in seconds(keys, name) for name in several)
    crowd = {f"cam-{i}": camera(50 + i) for i in range(12)}
    assert {key.camera_id for key in select(crowd, 16, recent=4)} == set(crowd)


def test_what_was_found_is_taken_in_the_place_of_what_is_relevant() -> None:
    one = {"gate": camera(5000, relevant=dict.fromkeys(range(100, 400), 2.0))}
    found = [CarrierKey(camera_id="gate", at_ms=s * 1000) for s in range(3000, 3050)]
    assert seconds(select(one, 64, found=found), "gate") == [*range(3000, 3031), 4999], "half of the budget, and nothing around"


def test_where_nothing_was_found_it_is_an_even_spread_unless_that_would_be_too_sparse() -> None:
    assert select({"gate": camera(640)}, 64, found=()) == select({"gate": camera(640, scored=False)}, 64)
    assert seconds(select({"gate": camera(641)}, 64, found=()), "gate") == [*range(625, 641)]
    both = select({"gate": camera(5000), "yard": camera(3000)}, 64, found=())
    assert (seconds(both, "gate"), seconds(both, "yard")) == ([*range(4992, 5000)], [*range(2992, 3000)]), "the newest of each"


def test_passages_are_the_surest_and_the_latest_and_none_twice() -> None:
    scores = {100: 5.0, 111: 4.0, 300: 3.0, 500: 0.4, 4000: 0.2, 4990: -0.4, 4999: 0.0}
    cameras = {"gate": camera(5000, relevant=scores), "yard": camera(50, relevant={10: 2.0}), "dock": camera(50, scored=False)}
    around = passages(cameras, count=6, reach=5)
    middles = {(p.keys[0].camera_id, *range(p.keys[0].at_ms // 1000, p.keys[-1].at_ms // 1000 + 1)) for p in around}
    assert {("gate", *range(95, 106)), ("gate", *range(106, 117)), ("gate", *range(295, 306))} <= middles, "the surest"
    assert {("gate", *range(4994, 5000)), ("gate", *range(3995, 4006)), ("gate", *range(495, 506))} <= middles, "the latest"
    assert len(around) == 6
    best = {p.keys[0].at_ms // 1000: p.score for p in around if p.keys[0].camera_id == "gate"}
    assert best == {at: np.float32(score) for at, score in {95: 5.0, 106: 4.0, 295: 3.0, 495: 0.4, 3995: 0.2, 4994: 0.0}.items()}
    assert passages({"dock": camera(50, scored=False)}) == []


def test_without_scores_they_are_evenly_spread() -> None:
    times = seconds(select({"gate": camera(10_000, scored=False)}, budget=101), "gate")
    gaps = np.diff(times)
    assert len(times) == 101
    assert gaps.max() <= 1.1 * np.median(gaps)


def test_what_nothing_is_known_of_is_not_taken_for_relevant() -> None:
    scores = np.full(10_000, -np.inf, np.float32)
    scores[77] = -1.4
    times = 1000 * np.arange(10_000)
    chosen = seconds(select({"gate": Candidates(at_ms=times, scores=scores)}, budget=101), "gate")
    assert {76, 77, 78} <= set(chosen)
    assert np.diff([s for s in chosen if not 76 <= s <= 78]).max() <= 110


def plainly_spread(times: dict[str, list[int]], budget: int) -> list[CarrierKey]:
    """The newest of each camera, and the rest evenly over all in order of time: how it is done where millions need not be sorted."""
    keys = sorted((CarrierKey(camera_id=c, at_ms=at) for c, each in times.items() for at in each), key=lambda k: (k.at_ms, k.camera_id))
    newest = {CarrierKey(camera_id=c, at_ms=each[-1]) for c, each in times.items()}
    rest = [key for key in keys if key not in newest]
    chosen = np.linspace(0, len(rest) - 1, budget - len(newest)).round().astype(int)
    return sorted({*newest, *(rest[i] for i in chosen)}, key=lambda k: (k.at_ms, k.camera_id))


TIMES = st.dictionaries(
    st.sampled_from(["gate", "yard", "dock", "roof"]),
    st.lists(st.integers(0, 300), min_size=30, max_size=60, unique=True).map(sorted),
    min_size=1,
)


@given(TIMES, st.integers(5, 25))
def test_without_scores_every_camera_has_its_newest_and_the_rest_is_even_over_all(times: dict[str, list[int]], budget: int) -> None:
    chosen = select({camera: Candidates(at_ms=np.array(each)) for camera, each in times.items()}, budget)
    assert chosen == plainly_spread(times, budget)


def test_scores_go_to_the_carriers_of_their_times() -> None:
    at_ms, known, scores = np.array([10, 20, 30, 40]), np.array([5, 20, 25, 40]), np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    assert joined(at_ms, known, scores).tolist() == [-np.inf, scores[1], -np.inf, scores[3]]
    assert joined(np.array([50]), known, scores).tolist() == [-np.inf]
    assert joined(known, known, scores) is scores


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    budget=st.integers(1, 40),
    seed=st.integers(0, 99),
    scored=st.booleans(),
)
def test_the_budget_is_used_and_never_exceeded(counts: list[int], budget: int, seed: int, scored: bool) -> None:
    r = np.random.default_rng(seed)
    times = [np.sort(r.choice(10_000, n, replace=False)) for n in counts]
    cameras = {
        f"c{i}": Candidates(at_ms=at_ms, scores=r.standard_normal(len(at_ms), np.float32) if scored else None)
        for i, at_ms in enumerate(times)
    }
    keys = select(cameras, budget)
    assert len(keys) == min(budget, sum(counts))
    assert len(set(keys)) == len(keys)
    assert all(key.at_ms in cameras[key.camera_id].at_ms for key in keys)
    assert keys == sorted(keys, key=lambda k: (k.at_ms, k.camera_id))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_surest_of_all_cameras_are_taken_whichever_comes_first(seed: int) -> None:
    r = np.random.default_rng(seed)
    scores = {name: r.permutation(4 * 60).reshape(4, 60)[i].astype(np.float32) for i, name in enumerate("abcd")}
    candidates = {name: Candidates(at_ms=10 * np.arange(60), scores=own / 1000 - 1) for name, own in scores.items()}
    sure = sorted(((own[i], name, 10 * i) for name, own in scores.items() for i in range(60)), reverse=True)
    budget = 64
    most = (int(budget * TOP) - len(scores)) // 3  # each may take two neighbours along
    chosen = {(key.camera_id, key.at_ms) for key in select(candidates, budget)}
    assert {(name, at_ms) for _, name, at_ms in sure[:most]} <= chosen


def test_what_is_there_for_seconds_stands_out_from_what_one_picture_is_mistaken_for() -> None:
    at_ms = np.array([0, 1000, 2000, 3000, 60_000, 61_000, 62_000, 63_000, 120_000, 120_001 + NEAR_MS])
    logits = np.array([-6, 4, -6, -6, 1, 3, 2, -6, 3, 4], np.float32)
    told = steadied(at_ms, logits)
    assert told.tolist() == [-1, -1, -1, -6, 2, 2.5, 2.5, -2, 3, 4]  # alone in its time, a moment is what it is
    assert logits[1] == 4  # the caller's
