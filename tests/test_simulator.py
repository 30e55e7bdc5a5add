"""The simulated site is one world whose log, sightings and pictures agree; what its questions say of it is recounted here."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.grounding import NOT_SEEN, WHEN, WHERE
from simulator import questions
from simulator.questions import FAMILIES, NUMBERS, Quiz, ask
from simulator.render import render
from simulator.visits import CAMERAS, HEIGHT, MOVERS, THINGS, WIDTH
from simulator.watching import CLEAR, HINT, Shot, Watch, watch
from simulator.world import Event, Sighting, Site

SEEDS = st.integers(0, 10_000)
MOMENTS = st.floats(0, 86_400)
few = settings(deadline=None, max_examples=25)


# The world


@few
@given(SEEDS, MOMENTS)
def test_the_same_seed_gives_the_same_world_whatever_was_asked_before(seed: int, t: float) -> None:
    one, other = Site(seed), Site(seed)
    for earlier in (t + 500, t - 900, t + 3):
        other.sightings("gate", earlier)
    assert [one.sightings(c, t) for c in CAMERAS] == [other.sightings(c, t) for c in reversed(CAMERAS)][::-1]
    assert one.events(t, t + 60) == other.events(t, t + 60)
    assert one.light(t) == other.light(t)


def test_another_seed_is_another_world() -> None:
    logs = [Site(seed).events(0, 300) for seed in range(8)]
    assert all(a != b for i, a in enumerate(logs) for b in logs[:i])


@few
@given(SEEDS, MOMENTS, st.sampled_from(CAMERAS))
def test_what_is_seen_is_well_formed_and_far_things_come_first(seed: int, t: float, camera: str) -> None:
    seen = Site(seed).sightings(camera, t)
    assert [s.y for s in seen] == sorted(s.y for s in seen)
    assert len({s.id for s in seen}) == len(seen)
    for s in seen:
        assert 0 <= s.visible <= 1
        assert (s.kind in THINGS) == (s.colour == "") == (s.heading == 0)
        assert s.kind in (*MOVERS, *THINGS)
        left, top, right, bottom = s.box
        if right <= 0 or left >= WIDTH or bottom <= 0 or top >= HEIGHT:
            assert s.visible == 0
    if seen:  # nothing is in front of the nearest: it shows what is inside the picture
        left, top, right, bottom = seen[-1].box
        inside = (min(right, WIDTH) - max(left, 0)) * (min(bottom, HEIGHT) - max(top, 0))
        assert seen[-1].visible == pytest.approx(max(0.0, inside) / ((right - left) * (bottom - top)))


def visits(events: Sequence[Event]) -> Iterator[tuple[Event, Event]]:
    """Every entering with its leaving."""
    entered: dict[tuple[str, str], Event] = {}
    for event in events:
        if event.what == "enters":
            entered[event.camera, event.id] = event
        elif event.what == "leaves" and (event.camera, event.id) in entered:
            yield entered.pop((event.camera, event.id)), event


def ids(site: Site, camera: str, t: float) -> dict[str, Sighting]:
    return {s.id: s for s in site.sightings(camera, t)}


@few
@given(SEEDS, MOMENTS)
def test_a_mover_that_entered_is_seen_until_it_leaves_and_not_a_moment_longer(seed: int, start: float) -> None:
    site = Site(seed, traffic=1.0)
    for enters, leaves in visits(site.events(start, start + 120)):
        assert enters.at < leaves.at
        for part in (0.0, 0.01, 0.5, 0.99):
            s = ids(site, enters.camera, enters.at + part * (leaves.at - enters.at))[enters.id]
            assert (s.kind, s.colour) == (enters.kind, enters.colour)
        for outside in (enters.at - 1e-3, leaves.at, leaves.at + 1e-3):
            assert enters.id not in ids(site, enters.camera, outside)
        # It comes in at one edge and goes out at the other: neither is a sudden appearance.
        assert ids(site, enters.camera, enters.at)[enters.id].visible == pytest.approx(0, abs=1e-6)
        assert ids(site, enters.camera, leaves.at - 1e-6)[enters.id].visible == pytest.approx(0, abs=1e-3)


@few
@given(SEEDS, MOMENTS)
def test_whatever_is_seen_has_entered_or_was_left_there_according_to_the_log(seed: int, t: float) -> None:
    site = Site(seed, traffic=1.0)
    log = site.events(t - 300, t + 300)
    inside = {(e.camera, e.id) for e, left in visits(log) if e.at <= t < left.at}
    lying = {(e.camera, e.id) for e in log if e.what == "leaves behind" and e.at <= t}
    for camera in CAMERAS:
        for s in site.sightings(camera, t):
            assert (camera, s.id) in (lying if s.kind in THINGS else inside)


@few
@given(SEEDS, MOMENTS)
def test_the_log_of_a_time_is_the_logs_of_its_parts(seed: int, start: float) -> None:
    site = Site(seed)
    log = site.events(start, start + 90)
    assert [e.at for e in log] == sorted(e.at for e in log)
    assert log == [e for a in range(3) for e in site.events(start + 30 * a, start + 30 * (a + 1))] or any(
        abs((e.at - start) % 30) < 1e-6 for e in log
    )


@few
@given(SEEDS, MOMENTS)
def test_what_moves_moves_the_way_it_heads_and_what_stands_stays(seed: int, t: float) -> None:
    site = Site(seed, traffic=1.0)
    for camera in CAMERAS:
        now, soon = ids(site, camera, t), ids(site, camera, t + 0.1)
        for name in now.keys() & soon.keys():
            a, b = now[name], soon[name]
            if a.moving and b.moving:
                assert (b.x - a.x) * a.heading > 0
            elif not a.moving and not b.moving:
                assert b.x == pytest.approx(a.x, abs=1e-6)


# Its pictures


def test_the_same_moment_gives_the_same_picture_and_others_give_others() -> None:
    site = Site(3)
    pictures = {(c, t): render(site, c, t) for c in CAMERAS for t in (1000.0, 1001.0, 1300.0)}
    for (camera, t), picture in pictures.items():
        assert picture.shape == (HEIGHT, WIDTH, 3)
        assert picture.dtype == np.uint8
        assert np.array_equal(picture, render(Site(3), camera, t))
    different = [p.tobytes() for p in pictures.values()] + [render(Site(4), "gate", 1000.0).tobytes()]
    assert len(set(different)) == len(different)


def test_a_picture_shows_what_the_truth_says_is_there() -> None:
    """Where something stands the picture differs from the empty scene, far beyond noise; elsewhere it does not."""
    site, found = Site(11, traffic=1.0), 0
    for camera in CAMERAS:
        empty = next(t for t in np.arange(2000.0, 4000.0, 0.5) if not site.sightings(camera, t))
        base = render(site, camera, empty).astype(np.float32)
        for t in np.arange(empty - 60, empty + 60, 7.3):
            seen = [s for s in site.sightings(camera, t) if s.visible > 0.95]
            if len(site.sightings(camera, t)) != 1 or not seen:
                continue
            change = np.abs(render(site, camera, t) - base).mean(-1)
            left, top, right, bottom = (round(v) for v in seen[0].box)
            inside = change[max(0, top) : bottom, max(0, left) : right].mean()
            outside = np.median(change[40:, :])
            assert inside > outside + 8, (camera, t, seen[0])
            found += 1
    assert found >= 8


# Questions: their words taken apart

NOUNS = {
    **dict.fromkeys(("person", "somebody", "someone", "human", "people", "persons"), "person"),
    **dict.fromkeys(("car", "cars", "automobile"), "car"),
    **dict.fromkeys(("truck", "trucks", "lorry", "lorries"), "truck"),
    **dict.fromkeys(("bicycle", "bicycles", "bike", "bikes", "cyclist", "cyclists"), "bicycle"),
}
COLOUR = "red|blue|green|yellow|white|black"
PHRASE = re.compile(
    rf"\b(?:(?:an?|the) )?(?:(?P<before>{COLOUR}) )?(?P<noun>{'|'.join(NOUNS)})\b"
    rf"(?: (?:in an?|in|wearing|dressed in) (?P<after>{COLOUR})(?: jacket)?)?"
)

Asked = tuple[str, str]  # kind, and colour or ""


def asked_about(text: str) -> list[Asked]:
    """The things that a question speaks of, in the order of its words."""
    return [(NOUNS[m["noun"]], m["before"] or m["after"] or "") for m in PHRASE.finditer(text.lower())]


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("Which came first, the red car or the person in a blue jacket?", [("car", "red"), ("person", "blue")]),
        ("What colour was the cyclist wearing?", [("bicycle", "")]),
        ("Is there somebody dressed in black at the yard now?", [("person", "black")]),
        ("How many lorries came by?", [("truck", "")]),
        ("Was anything left behind?", []),
    ],
)
def test_the_recount_reads_questions_rightly(text: str, things: list[Asked]) -> None:
    assert asked_about(text) == things


# Questions: the recount, from the shots and the words alone


def shows(shot: Shot, thing: Asked, least: float = CLEAR) -> bool:
    return any(s.kind == thing[0] and thing[1] in ("", s.colour) and s.visible >= least for s in shot.sightings)


def showing(shots: Sequence[Shot], thing: Asked) -> tuple[int, ...]:
    return tuple(i for i, shot in enumerate(shots) if shows(shot, thing))


def newest(shots: Sequence[Shot]) -> list[int]:
    return [i for i, shot in enumerate(shots) if not any(later.camera == shot.camera for later in shots[i + 1 :])]


def recount_presence_now(shots: Sequence[Shot], quiz: Quiz) -> None:
    (thing,) = asked_about(quiz.text)
    evidence = tuple(i for i in newest(shots) if shows(shots[i], thing))
    assert (quiz.answer, quiz.evidence) == ("yes" if evidence else "no", evidence)
    if not evidence:
        assert not any(shows(shots[i], thing, HINT) for i in newest(shots))


def recount_presence(shots: Sequence[Shot], quiz: Quiz) -> None:
    (thing,) = asked_about(quiz.text)
    evidence = showing(shots, thing)
    assert (quiz.answer, quiz.evidence) == ("yes" if evidence else "no", evidence)
    if not evidence:
        assert not any(shows(shot, thing, HINT) for shot in shots)


def recount_colour(shots: Sequence[Shot], quiz: Quiz) -> None:
    ((kind, named),) = asked_about(quiz.text)
    assert named == ""
    colours = {s.colour for shot in shots for s in shot.sightings if s.kind == kind and s.visible >= HINT}
    assert colours == {quiz.answer}
    assert quiz.evidence == showing(shots, (kind, ""))


def recount_count_now(shots: Sequence[Shot], quiz: Quiz) -> None:
    recount_among(shots, quiz, newest(shots))


def recount_count(shots: Sequence[Shot], quiz: Quiz) -> None:
    recount_among(shots, quiz, range(len(shots)))


def recount_among(shots: Sequence[Shot], quiz: Quiz, where: Sequence[int]) -> None:
    (thing,) = asked_about(quiz.text)
    different = {s.id for i in where for s in shots[i].sightings if s.kind == thing[0] and s.visible >= CLEAR}
    hinted = {s.id for i in where for s in shots[i].sightings if s.kind == thing[0] and s.visible >= HINT}
    assert quiz.answer == NUMBERS[len(different)]
    assert hinted == different  # nothing to argue about
    assert quiz.evidence == tuple(i for i in where if shows(shots[i], thing))


def recount_direction(shots: Sequence[Shot], quiz: Quiz) -> None:
    (thing,) = asked_about(quiz.text)
    matching = [s for shot in shots for s in shot.sightings if s.kind == thing[0] and thing[1] in ("", s.colour) and s.visible >= HINT]
    assert {s.heading for s in matching} == {{"right": 1, "left": -1}[quiz.answer]}
    assert quiz.evidence == showing(shots, thing)
    assert len(quiz.evidence) >= 2


def recount_order(shots: Sequence[Shot], quiz: Quiz) -> None:
    one, other = asked_about(quiz.text)
    first, second = showing(shots, one), showing(shots, other)
    assert abs(shots[first[0]].at - shots[second[0]].at) >= 2.0
    if quiz.answer in ("yes", "no"):
        assert (quiz.answer == "yes") == (shots[first[0]].at < shots[second[0]].at)
    else:
        assert asked_about(quiz.answer) == [one if shots[first[0]].at < shots[second[0]].at else other]
    assert quiz.evidence == tuple(i for i in min(first, second) if i < max(first[0], second[0]))  # what came first, until the other did


def recount_camera(shots: Sequence[Shot], quiz: Quiz) -> None:
    assert quiz.answer == WHERE
    assert len({shot.camera for shot in shots}) > 1
    recount_last(shots, quiz)


def recount_when(shots: Sequence[Shot], quiz: Quiz) -> None:
    assert quiz.answer == WHEN
    recount_last(shots, quiz)


def recount_last(shots: Sequence[Shot], quiz: Quiz) -> None:
    (thing,) = asked_about(quiz.text)
    last = showing(shots, thing)[-1]
    assert quiz.evidence[-1] == last
    assert {shots[i].camera for i in quiz.evidence} == {shots[last].camera}
    assert set(quiz.evidence) <= set(showing(shots, thing))
    assert shots[last].at - shots[quiz.evidence[0]].at < 2
    assert not any(shows(shot, thing, HINT) and shot.camera != shots[last].camera for shot in shots[last + 1 :])


def recount_left(shots: Sequence[Shot], quiz: Quiz) -> None:
    kinds = [kind for kind in ("bag", "box") if showing(shots, (kind, ""))]
    assert quiz.answer == (" and ".join(f"a {kind}" for kind in kinds) or "nothing")
    assert not any(shows(shot, (kind, ""), HINT) for shot in shots for kind in {"bag", "box"} - {*kinds})
    assert quiz.evidence == tuple(i for i, shot in enumerate(shots) if shows(shot, ("bag", "")) or shows(shot, ("box", "")))


def recount_not_seen(shots: Sequence[Shot], quiz: Quiz) -> None:
    (thing,) = asked_about(quiz.text)
    assert (quiz.answer, quiz.evidence) == (NOT_SEEN, ())
    assert not any(shows(shot, thing, HINT) for shot in shots)


RECOUNTS: dict[str, Callable[[Sequence[Shot], Quiz], None]] = {
    name.removeprefix("recount_"): recount for name, recount in list(globals().items()) if name.startswith("recount_")
}


@cache
def asked() -> dict[str, list[tuple[Watch, Quiz]]]:
    """Questions of every family over many sites, hours and choices of cameras."""
    found = defaultdict(list)
    r = Random("test")
    for seed in range(220):
        start = r.uniform(0, 86_400)
        w = watch(Site(seed), r.sample(CAMERAS, r.choice((1, 1, 2, 4))), [start + s * r.choice((1, 1, 2)) for s in range(r.randint(2, 24))])
        for family in FAMILIES:
            found[family.__name__] += [(w, quiz) for _ in range(3) if (quiz := ask(w, r, family))]
    return dict(found)


@pytest.mark.parametrize("family", [family.__name__ for family in FAMILIES])
def test_every_answer_and_its_evidence_stand_up_to_a_recount(family: str) -> None:
    quizzes = asked()[family]
    assert len(quizzes) >= 60
    for w, quiz in quizzes:
        assert [shot.at for shot in w.shots] == sorted(shot.at for shot in w.shots)
        assert list(quiz.evidence) == sorted(set(quiz.evidence))
        RECOUNTS["not_seen" if quiz.family == "not seen" else family](w.shots, quiz)
        assert {(s.kind, s.colour) for s in quiz.about} == ({("bag", ""), ("box", "")} if family == "left" else {*asked_about(quiz.text)})


def test_what_lies_half_hidden_is_not_argued_about() -> None:
    bag = Sighting(id="a", kind="bag", colour="", heading=0, x=300, y=330, scale=1, moving=False, visible=(CLEAR + HINT) / 2)
    w = Watch([Shot(camera="gate", at=1.0, sightings=(bag,))])
    assert ask(w, Random(1), questions.left) is None


def test_only_what_has_evidence_is_pointed_at() -> None:
    for quizzes in asked().values():
        for _, quiz in quizzes:
            if WHERE in quiz.answer or WHEN in quiz.answer:
                assert quiz.evidence
            if quiz.answer in (NOT_SEEN, "nothing", "none"):
                assert not quiz.evidence


@pytest.mark.parametrize("family", ["colour", "direction", "camera", "when"])
def test_some_of_what_is_asked_about_was_not_seen(family: str) -> None:
    share = np.mean([quiz.family == "not seen" for _, quiz in asked()[family]])
    assert 0.03 < share < 0.5


@pytest.mark.parametrize("family", ["presence", "presence_now"])
def test_yes_and_no_are_in_balance(family: str) -> None:
    share = np.mean([quiz.answer == "yes" for _, quiz in asked()[family]])
    assert 0.3 < share < 0.7


def test_left_and_right_and_both_orders_are_in_balance() -> None:
    for family, one, other in (("direction", "left", "right"), ("order", "yes", "no")):
        told = Counter(quiz.answer for _, quiz in asked()[family])
        assert 0.3 < told[one] / (told[one] + told[other]) < 0.7


@pytest.mark.parametrize("family", [family.__name__ for family in FAMILIES])
def test_the_wording_varies(family: str) -> None:
    bare = Counter(re.sub(rf" at the ({'|'.join(CAMERAS)})", "", PHRASE.sub("X", quiz.text.lower())) for _, quiz in asked()[family])
    assert len(bare) >= 3
    assert max(bare.values()) < 0.7 * sum(bare.values())


def test_names_of_cameras_stand_only_in_questions_about_that_camera() -> None:
    for quizzes in asked().values():
        for w, quiz in quizzes:
            told = set(re.findall("|".join(CAMERAS), quiz.text.lower()))
            assert told <= (set(w.cameras) if len(w.cameras) == 1 else set())


def test_a_scene_is_described_from_left_to_right_as_it_is() -> None:
    r, described = Random(5), 0
    for seed in range(60):
        w = watch(Site(seed), [r.choice(CAMERAS)], [r.uniform(0, 86_400)])
        for family in (questions.describe, questions.detail):
            quiz = ask(w, r, family)
            if quiz is None:
                continue
            least, most = (CLEAR, 4) if family is questions.describe else (0.35, 5)
            shown = sorted((s for s in w.shots[-1].sightings if s.visible >= least), key=lambda s: s.x)[:most]
            told = [] if quiz.answer == "nothing" else quiz.answer.split(", ")
            assert len(told) == len(shown)
            for s, phrase in zip(shown, told, strict=True):
                assert (asked_about(phrase) == [(s.kind, s.colour)]) if s.colour else (s.kind in phrase)
            assert quiz.evidence == ((0,) if shown else ())
            described += bool(shown)
    assert described >= 20


def test_a_direction_is_asked_only_of_what_was_seen_to_move() -> None:
    for w, quiz in asked()["direction"]:
        if quiz.evidence:
            (thing,) = asked_about(quiz.text)
            assert any(
                s.moving for i in quiz.evidence for s in w.shots[i].sightings if s.kind == thing[0] and thing[1] in ("", s.colour)
            ), quiz
