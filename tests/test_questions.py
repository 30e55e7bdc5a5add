"""What the simulated site's questions say of it is recounted here, from their words alone."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from random import Random

import numpy as np
import pytest

from pipeline.grounding import NOT_SEEN, WHEN, WHERE
from simulator import questions
from simulator.questions import FAMILIES, NUMBERS, Quiz, ask, lookalike, presence
from simulator.visits import CAMERAS
from simulator.watching import CLEAR, HINT, Shot, Subject, Watch, watch
from simulator.world import Sighting, Site

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


@pytest.mark.parametrize(("apart_s", "answerable"), [(0.0, False), (1.0, False), (1.5, True)])
def test_what_two_cameras_saw_to_the_same_second_was_last_seen_by_neither(apart_s: float, answerable: bool) -> None:
    walker = Sighting(id="a", kind="person", colour="yellow", heading=1, x=300, y=330, scale=1, moving=True, visible=1)
    other, yellow = replace(walker, id="b"), Subject("person", "yellow")
    shots = [Shot(camera="gate", at=10 - apart_s, sightings=(walker,)), Shot(camera="yard", at=10.0, sightings=(other,))]
    quiz = ask(Watch([*shots, Shot(camera="gate", at=11.0, sightings=())]), Random(3), partial(questions.camera, pick=lambda *_: yellow))
    assert (quiz is not None) == answerable
    if quiz:
        assert (quiz.answer, quiz.evidence) == (WHERE, (1,))


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


def test_a_lookalike_is_told_by_its_colour_alone() -> None:
    answers = defaultdict(list)
    r = Random("lookalike")
    for w, _ in asked()["presence"]:
        if w.present() and (quiz := presence(w, r, lookalike)):
            (subject,) = quiz.about
            assert subject.colour
            assert subject.kind in {t.kind for t in w.present()}
            answers[subject.kind].append(quiz.answer)
    assert all(0.25 < each.count("yes") / len(each) < 0.75 for each in answers.values())
