"""From attention to moments, and from the model's pointing words to times and places."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import CarrierKey, Evidence, TimeRange, clock
from pipeline.grounding import LOOKED, MOMENTS, NEAR_MS, NOT_SEEN, WHEN, WHERE, WORTH, ago, ground, moments, pointed

T0 = 1_700_000_000_000


def keys(*at_s: float, camera: str = "gate") -> list[CarrierKey]:
    return [CarrierKey(camera_id=camera, at_ms=T0 + round(1000 * s)) for s in at_s]


def evidence(at_ms: int = T0, camera: str = "gate") -> Evidence:
    return Evidence(camera_id=camera, at_ms=at_ms, span=TimeRange(start_ms=at_ms, end_ms=at_ms), score=1.0)


LOOKS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["gate", "yard"]), st.floats(0, 1)), min_size=1, max_size=25, unique_by=lambda x: x[:2]
)


@settings(deadline=None)
@given(LOOKS)
def test_moments_are_few_strongest_first_and_each_lies_in_its_own_cameras_span(looks: list[tuple[int, str, float]]) -> None:
    looks.sort()
    total = sum(look for _, _, look in looks)
    scale = 1 / max(1.0, total)
    named = [CarrierKey(camera_id=c, at_ms=T0 + 500 * t) for t, c, _ in looks]
    found = moments(named, np.array([look * scale for _, _, look in looks]))
    if total * scale < LOOKED - 1e-9:
        assert found == ()
        return
    if total * scale > LOOKED + 1e-9:
        assert found
    assert len(found) <= MOMENTS
    assert [e.score for e in found] == sorted((e.score for e in found), reverse=True)
    assert all(e.score >= WORTH for e in found[1:])
    assert sum(e.score for e in found) <= 1 + 1e-9
    for e in found:
        assert CarrierKey(camera_id=e.camera_id, at_ms=e.at_ms) in named
        assert e.at_ms in e.span
        assert CarrierKey(camera_id=e.camera_id, at_ms=e.span.start_ms) in named
        assert CarrierKey(camera_id=e.camera_id, at_ms=e.span.end_ms) in named


@pytest.mark.parametrize("attention", [[0.0, 0.0, 0.0], [0.1, 0.1, 0.09], [LOOKED - 0.001, 0, 0]])
def test_an_answer_that_hardly_looked_has_no_moments(attention: list[float]) -> None:
    assert moments(keys(0, 1, 2), np.array(attention)) == ()


def test_nothing_to_look_at_has_no_moments() -> None:
    assert moments([], np.zeros(0)) == ()


def test_carriers_close_in_time_are_one_moment_around_the_strongest() -> None:
    (found,) = moments(keys(0, 3, 6), np.array([0.1, 0.5, 0.2]))
    assert (found.at_ms, found.span) == (T0 + 3000, TimeRange(start_ms=T0, end_ms=T0 + 6000))
    assert found.score == pytest.approx(1.0)


def test_carriers_apart_in_time_or_place_are_moments_of_their_own() -> None:
    found = moments(keys(0, NEAR_MS / 1000 + 0.001), np.array([0.2, 0.5]))
    assert [e.at_ms - T0 for e in found] == [NEAR_MS + 1, 0]
    beside = [*keys(0), *keys(0.5, camera="yard")]
    assert [(e.camera_id, e.score) for e in moments(beside, np.array([0.25, 0.5]))] == [
        ("yard", pytest.approx(2 / 3)), ("gate", pytest.approx(1 / 3)),
    ]  # fmt: skip


def test_cameras_that_alternate_do_not_cut_one_anothers_moments() -> None:
    both = [key for t in range(4) for key in (*keys(t), *keys(t + 0.5, camera="yard"))]
    found = moments(both, np.array([0.15, 0.1] * 4))
    assert [(e.camera_id, e.span.end_ms - e.span.start_ms) for e in found] == [("gate", 3000), ("yard", 3000)]


def test_a_moment_that_drew_little_is_left_out_but_the_best_is_always_shown() -> None:
    found = moments(keys(0, 100, 200, 300), np.array([0.4, 0.3, 0.05, 0.05]))
    assert [e.at_ms - T0 for e in found] == [0, 100_000]
    scattered = moments(keys(*range(0, 1000, 10)), np.full(100, 0.01))
    assert len(scattered) == 1


def test_a_moment_does_not_begin_with_carriers_that_were_not_looked_at() -> None:
    (found,) = moments(keys(0, 1, 2, 3, 4, 5), np.array([0.001, 0.001, 0.001, 0.001, 0.4, 0.4]))
    assert found.span == TimeRange(start_ms=T0 + 4000, end_ms=T0 + 5000)


def test_one_weak_carrier_between_strong_ones_does_not_make_two_moments_of_one() -> None:
    (found,) = moments(keys(0, 1, 2), np.array([0.45, 0.001, 0.45]))
    assert found.span == TimeRange(start_ms=T0, end_ms=T0 + 2000)


def test_a_pointing_answer_is_filled_in_from_the_best_moment() -> None:
    best, other = evidence(T0, "dock"), evidence(T0 - 60_000, "gate")
    assert ground(WHERE, [best, other], T0) == "dock"
    assert ground(f"at the {WHERE}, {WHEN}", [best, other], T0 + 200_000) == f"at the dock, 3 min 20 s ago, at {clock(T0)}"


def drew(score: float, from_s: int, to_s: int, camera: str) -> Evidence:
    span = TimeRange(start_ms=T0 + from_s * 1000, end_ms=T0 + to_s * 1000)
    return Evidence(camera_id=camera, at_ms=span.start_ms, span=span, score=score)


def test_a_pointing_answer_means_the_end_of_the_latest_moment_that_drew_much() -> None:
    strong, late, glance = drew(0.5, 0, 5, "gate"), drew(0.36, 20, 24, "dock"), drew(0.2, 60, 61, "yard")
    first, *others = pointed(WHERE, [strong, late, glance])
    assert (first.camera_id, first.at_ms) == ("dock", T0 + 24_000)
    assert others == [strong, glance]
    assert pointed("red", [strong, late]) == (strong, late)
    assert pointed(WHEN, [glance])[0].at_ms == T0 + 61_000  # all there is
    assert pointed(WHEN, []) == ()


@pytest.mark.parametrize("text", [WHERE, WHEN, f"at the {WHERE}", f"{WHERE} {WHEN}"])
def test_a_pointing_answer_without_evidence_is_not_seen(text: str) -> None:
    assert ground(text, [], T0) == NOT_SEEN


@pytest.mark.parametrize("text", ["yes", "no", "red", "", NOT_SEEN, "where when"])
def test_any_other_answer_stays_as_it_is(text: str) -> None:
    assert ground(text, [], T0) == ground(text, [evidence()], T0) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from(["at the", "yes", WHERE, WHEN, "."]), max_size=6), st.integers(-(10**6), 10**12))
def test_no_pointing_word_ever_reaches_an_analyst(words: list[str], later_ms: int) -> None:
    for grounds in ([], [evidence()]):
        said = ground(" ".join(words), grounds, T0 + later_ms)
        assert WHERE not in said
        assert WHEN not in said


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (-5000, "0 seconds"),
        (0, "0 seconds"),
        (499, "0 seconds"),
        (1000, "1 second"),
        (40_400, "40 seconds"),
        (59_600, "1 min 0 s"),
        (200_000, "3 min 20 s"),
        (3_599_000, "59 min 59 s"),
        (3_600_000, "1 h 0 min"),
        (7_500_000, "2 h 5 min"),
        (86_399_000, "23 h 59 min"),
        (86_400_000, "1 d 0 h"),
        (14 * 86_400_000 + 3_600_000, "14 d 1 h"),
    ],
)
def test_a_length_of_time_is_said_as_people_say_it(ms: int, words: str) -> None:
    assert ago(ms) == words
