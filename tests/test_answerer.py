"""From a question to an answer: what is looked at, what is said, and what is owned up to."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.answerer import GAPS, HOLE_MS, RECENT, Answerer, gaps
from pipeline.core import VECTOR, Carrier, CarrierKey, Gap, Mode, NoMemory, Question, TimeRange, UnknownCamera, clock, named
from pipeline.grounding import NOT_SEEN, WHEN, WHERE
from pipeline.rules import Standing
from pipeline.selection import PASSAGES, REACH

T0 = 1_700_000_000_000
unhurried = settings(deadline=None)


def at(seconds: float) -> int:
    return T0 + round(1000 * seconds)


def instants(seconds: Iterable[float]) -> NDArray[np.int64]:
    return np.array([at(s) for s in seconds], np.int64)


@dataclass
class Memory:
    """Carriers at some seconds of some cameras; those `gone` are in the index and no more."""

    seconds: dict[str, list[float]]
    gone: set[tuple[str, int]] = field(default_factory=set)
    lost: list[Gap] = field(default_factory=list)
    shown: dict[str, dict[float, float]] = field(default_factory=dict)  # at some seconds of some cameras: how surely, as a logit

    def captured(self, camera_id: str, when: TimeRange | None) -> NDArray[np.int64]:
        return instants(s for s in self.seconds.get(camera_id, []) if when is None or at(s) in when)

    def get(self, keys: Sequence[CarrierKey]) -> list[Carrier | None]:
        return [None if (key.camera_id, key.at_ms) in self.gone else carrier(key) for key in keys]

    def vectors(self, camera_id: str, when: TimeRange) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """In two pieces; what is asked for is the last of a vector's numbers."""
        own = [(at(s), logit) for s, logit in self.shown.get(camera_id, {}).items() if at(s) in when]
        for piece in (own[: len(own) // 2], own[len(own) // 2 :]):
            logits = np.array([logit for _, logit in piece], np.float32)
            yield np.array([at_ms for at_ms, _ in piece], np.int64), np.pad(logits[:, None], ((0, 0), (VECTOR - 1, 0)))

    def losses(self, camera_id: str, when: TimeRange | None) -> list[Gap]:
        return [gap for gap in self.lost if gap.camera_id == camera_id and (when is None or gap.span.overlaps(when))]


def carrier(key: CarrierKey) -> Carrier:
    span = TimeRange(start_ms=key.at_ms, end_ms=key.at_ms)
    return Carrier(key=key, fingerprint="f", span=span, embedding=np.zeros(1, np.float32), kv=np.zeros(1, np.float32))


@dataclass
class Said:
    text: str
    probability: float
    attention: NDArray[np.float64]


@dataclass
class Decoder:
    """Says one thing, and looks at the carriers of one time alone, or at none."""

    text: str = "yes"
    looks_ms: int | None = None
    fingerprint: str = "f"
    mode: Mode = "training-free"
    has_head: bool = True
    asked: list[tuple[str, list[CarrierKey]]] = field(default_factory=list)
    shows: set[float] | None = None  # seconds that show what is asked about; None: it cannot tell
    closer: list[list[float]] = field(default_factory=list)  # the seconds that it looked at closer

    @property
    def looks(self) -> bool:
        return self.shows is not None

    def shown(self, question: str, sets: Sequence[Sequence[Carrier]]) -> list[float]:
        assert self.shows is not None
        self.closer += (here := [[(c.key.at_ms - T0) / 1000 for c in carriers] for carriers in sets])
        return [0.99 * bool(self.shows & set(seconds)) for seconds in here]

    def sought(self, question: str) -> NDArray[np.float32] | None:
        return np.eye(1, VECTOR, VECTOR - 1, np.float32)[0] if self.has_head else None

    def decode(self, question: str, carriers: Sequence[Carrier]) -> Said:
        self.asked.append((question, [c.key for c in carriers]))
        return Said(self.text, 0.75, np.array([0.9 * (c.key.at_ms == self.looks_ms) for c in carriers]))

    def judge(self, questions: Sequence[str], sets: Sequence[Sequence[Carrier]]) -> list[Said]:
        return [self.decode(question, carriers) for question, carriers in zip(questions, sets, strict=True)]


def answerer(decoder: Decoder, memory: Memory, *, now_s: float = 100, budget: int = 128) -> Answerer:
    return Answerer(decoder, memory, lambda: list(memory.seconds), budget=budget, now_ms=lambda: at(now_s))


def between(start_s: float, end_s: float) -> TimeRange:
    return TimeRange(start_ms=at(start_s), end_ms=at(end_s))


# What is looked at


def test_an_answer_tells_its_grounds_and_what_was_looked_at() -> None:
    decoder = Decoder(text=f"{WHERE}, {WHEN}", looks_ms=at(60))
    memory = Memory({"gate": [0, 1, 2], "yard": [60, 61]})
    answer = answerer(decoder, memory).answer(Question(text="Where was the car last seen?"))
    assert answer.text == f"yard, 40 seconds ago, at {clock(at(60))}"
    assert [(e.camera_id, e.at_ms, e.score) for e in answer.evidence] == [("yard", at(60), pytest.approx(1.0))]
    assert (answer.probability, answer.cameras, answer.carriers, answer.model) == (0.75, ("gate", "yard"), 5, "f")
    assert answer.mode == "training-free" and answer.took_ms >= 0


@pytest.mark.parametrize(
    ("question", "looked_at"),
    [
        (Question(text="Is there a car?"), ("gate", "yard", "yard-2")),
        (Question(text="Is there a car at the YARD?"), ("yard",)),
        (Question(text="Is there a car at yard-2 or the gate?"), ("gate", "yard-2")),
        (Question(text="Is there a car at the yard?", cameras=("gate",)), ("gate",)),
    ],
)
def test_the_cameras_given_are_meant_or_those_named_or_all(question: Question, looked_at: tuple[str, ...]) -> None:
    decoder = Decoder()
    assert answerer(decoder, Memory({"gate": [1], "yard": [1], "yard-2": [1]})).answer(question).cameras == looked_at
    assert {key.camera_id for _, keys in decoder.asked for key in keys} == set(looked_at)


def test_only_the_time_asked_about_is_looked_at() -> None:
    decoder = Decoder()
    answerer(decoder, Memory({"gate": [0, 10, 20, 30]})).answer(Question(text="?", when=between(10, 20)))
    assert [key.at_ms for key in decoder.asked[0][1]] == [at(10), at(20)]


def test_a_camera_that_is_not_there_is_said_with_those_that_are() -> None:
    decoder = Decoder()
    with pytest.raises(UnknownCamera, match="'roof'.*gate, yard"):
        answerer(decoder, Memory({"gate": [1], "yard": [1]})).answer(Question(text="?", cameras=("gate", "roof")))
    with pytest.raises(UnknownCamera, match="none"):
        answerer(decoder, Memory({})).answer(Question(text="?", cameras=("roof",)))
    assert decoder.asked == []


@pytest.mark.parametrize(
    ("memory", "question"),
    [
        (Memory({}), Question(text="?")),
        (Memory({"gate": []}), Question(text="?")),
        (Memory({"gate": [1, 2]}), Question(text="?", when=between(50, 60))),
        (Memory({"gate": [1], "yard": []}), Question(text="?", cameras=("yard",))),
        (Memory({"gate": [1]}, gone={("gate", at(1))}), Question(text="?")),
    ],
)
def test_nothing_remembered_is_said_and_never_answered(memory: Memory, question: Question) -> None:
    decoder = Decoder()
    with pytest.raises(NoMemory, match="nothing is remembered"):
        answerer(decoder, memory).answer(question)
    assert decoder.asked == []


def test_carriers_that_are_gone_are_left_out_and_the_evidence_stays_on_the_right_one() -> None:
    decoder = Decoder(text=WHEN, looks_ms=at(40))
    memory = Memory({"gate": [0, 20, 40, 60]}, gone={("gate", at(20)), ("gate", at(0))})
    answer = answerer(decoder, memory).answer(Question(text="When?"))
    assert [key.at_ms for key in decoder.asked[0][1]] == [at(40), at(60)]
    assert answer.carriers == 2
    assert [e.at_ms for e in answer.evidence] == [at(40)]
    assert (answer.gaps[0].span, answer.gaps[0].reason.split(" between ")[0]) == (between(0, 20), "2 of 4 moments of gate")


@pytest.mark.parametrize("text", [WHERE, WHEN])
def test_a_pointing_answer_that_looked_at_nothing_is_not_seen(text: str) -> None:
    answer = answerer(Decoder(text=text), Memory({"gate": [1, 2]})).answer(Question(text="Where was it?"))
    assert (answer.text, answer.evidence) == (NOT_SEEN, ())


def test_not_seen_comes_with_no_evidence() -> None:
    answer = answerer(Decoder(text=NOT_SEEN, looks_ms=at(1)), Memory({"gate": [1, 2]})).answer(Question(text="Where was it?"))
    assert (answer.text, answer.evidence) == (NOT_SEEN, ())


def test_ago_is_counted_from_now_also_when_the_past_was_asked_about() -> None:
    decoder = Decoder(text=WHEN, looks_ms=at(50))
    answer = answerer(decoder, Memory({"gate": [40, 50]}), now_s=3650).answer(Question(text="When?", when=between(0, 60)))
    assert answer.text == f"1 h 0 min ago, at {clock(at(50))}"


# What is looked at, when that has to be chosen


def looked_at(memory: Memory, when: TimeRange | None = None, *, has_head: bool = True) -> list[float]:
    answerer(decoder := Decoder(has_head=has_head), memory, budget=32).answer(Question(text="?", when=when))
    [(_, keys)] = decoder.asked
    return [(key.at_ms - T0) / 1000 for key in keys if key.camera_id == "gate"]


DAY, EVENT = list(range(5000)), (1234, 1235, 1236)


def test_an_event_of_three_carriers_among_thousands_is_looked_at() -> None:
    memory = Memory({"gate": DAY, "yard": DAY}, shown={"gate": {s: 4.0 if s in EVENT else -4.0 for s in DAY}})
    assert set(looked_at(memory)) >= {1233, *EVENT, 1237}  # the other camera has no vectors
    assert not set(EVENT) & set(looked_at(memory, has_head=False))
    assert set(looked_at(memory, between(1000, 2000))) >= set(EVENT)


def looked_closer(decoder: Decoder, shown: dict[float, float], budget: int = 64, when: TimeRange | None = None) -> set[float]:
    memory = Memory({"gate": DAY}, shown={"gate": {s: shown.get(s, -9.0) for s in DAY}})
    answerer(decoder, memory, budget=budget).answer(Question(text="?", when=when))
    return {(key.at_ms - T0) / 1000 for key in decoder.asked[0][1]}


def test_what_looks_like_it_is_looked_at_closer_and_only_what_is_it_is_answered_from() -> None:
    like = {s + near: 6.0 for s in range(100, 400, 100) for near in (-1, 0, 1)}
    decoder = Decoder(shows={1235.0})
    chosen = looked_closer(decoder, like | dict.fromkeys(EVENT, 5.0))
    assert set(range(1236 - REACH, 1234 + REACH + 1)) <= chosen
    assert sum(s in chosen for s in like) < 2, "what is spread evenly may be among them"
    assert any(100 in seconds for seconds in decoder.closer) and len(decoder.closer) <= PASSAGES


def test_when_a_closer_look_finds_nothing_what_is_answered_from_is_evenly_spread_or_the_newest() -> None:
    found = looked_closer(Decoder(shows=set()), dict.fromkeys(EVENT, 3.0), when=between(1000, 1600))
    assert len(found) == 64 and (min(found), max(found)) == (1000, 1600)
    assert sum(s in found for s in EVENT) < 2, "what is spread evenly may be among them"
    assert looked_closer(Decoder(shows=set()), dict.fromkeys(EVENT, 5.0)) == set(range(4984, 5000)), "too long for a spread"


def test_of_what_was_there_often_the_latest_are_answered_from() -> None:
    often = {float(s + near): 5.0 for s in range(100, 4900, 100) for near in (-1, 0, 1)}
    chosen = looked_closer(Decoder(shows=set(often)), often)
    assert {4800, 4700} <= chosen


def test_a_closer_look_and_relevance_are_weighed_against_each_other() -> None:
    barely, fairly = ({float(s): logit for s in EVENT} for logit in (3.0, 4.0))  # the look's logit, 0.99, is 4.6
    assert not set(EVENT) & looked_closer(Decoder(shows={1235.0}), barely)
    assert set(EVENT) <= looked_closer(Decoder(shows={1235.0}), fairly)
    likely, plain = ({float(s): logit for s in EVENT} for logit in (12.0, 13.0))
    assert not set(EVENT) & looked_closer(Decoder(shows=set()), likely), "a look at nothing counts against it"
    assert set(EVENT) <= looked_closer(Decoder(shows=set()), plain), "but not for everything"


def test_the_more_there_is_to_choose_among_the_more_it_takes_to_be_believed() -> None:
    barely = dict.fromkeys(map(float, EVENT), 2.5)
    assert set(EVENT) <= looked_closer(Decoder(shows={1235.0}), barely, when=between(1000, 2000))
    assert not set(EVENT) & looked_closer(Decoder(shows={1235.0}), barely)


def test_without_looking_closer_the_relevant_is_taken_as_it_is() -> None:
    assert set(EVENT) <= looked_closer(Decoder(shows=None), dict.fromkeys(EVENT, 5.0))


def test_vectors_count_where_they_are_and_only_for_what_is_there() -> None:
    gone = {2000.5: 9.0, 4500.5: 9.0, 9000.0: 9.0}  # of carriers that are no more
    shown = dict.fromkeys(EVENT, 4.0) | gone | {s: -4.0 for s in range(4000, 5000)}
    chosen = set(looked_at(Memory({"gate": DAY}, shown={"gate": dict(sorted(shown.items()))})))
    assert chosen >= set(EVENT) and not chosen & set(gone)


def test_without_a_head_or_vectors_what_is_looked_at_is_evenly_spread() -> None:
    even = looked_at(Memory({"gate": DAY}))
    assert np.ptp(np.diff(even[:-1])) <= 1 and (even[0], even[-2:]) == (0, [4998, 4999])
    assert even == looked_at(Memory({"gate": DAY}, shown={"gate": dict.fromkeys(DAY, 4.0)}), has_head=False)


# Rules


def test_rules_look_at_the_newest_carriers_of_their_cameras_together() -> None:
    decoder = Decoder()
    memory = Memory({"gate": list(range(20)), "yard": [99], "roof": []}, gone={("gate", at(19))})
    conditions = ((" a truck is at the gate. ", "gate"), ("it burns", "roof"), ("it rains", "yard"), ("it rains", "gate"))
    standing = [Standing(condition=condition, camera_id=camera_id) for condition, camera_id in conditions]
    judged = answerer(decoder, memory).judge(standing)
    said = ("a truck is at the gate", "it rains", "it rains")
    assert [question for question, _ in decoder.asked] == [f"Is it true now that {what}?" for what in said]
    gate = [at(s) for s in range(20 - RECENT, 19)]
    assert [[key.at_ms for key in keys] for _, keys in decoder.asked] == [gate, [at(99)], gate]
    assert [told and (told.probability, told.at_ms) for told in judged] == [(0.75, at(18)), None, (0.75, at(99)), (0.75, at(18))]
    shown = [[(e.camera_id, e.at_ms) for e in told.evidence] for told in judged if told]
    assert shown == [[("gate", at(18))], [("yard", at(99))], [("gate", at(18))]]


def test_rules_over_nothing_ask_nothing() -> None:
    decoder = Decoder()
    assert answerer(decoder, Memory({"gate": []})).judge([Standing(condition="a truck is there", camera_id="gate")]) == [None]
    assert not decoder.asked


# named


@pytest.mark.parametrize(
    ("text", "cameras"),
    [
        ("Was there a car at the gate?", ["gate"]),
        ("GATE, then the yard.", ["gate", "yard"]),
        ("the yard and the gate", ["gate", "yard"]),  # in the order of the cameras
        ("at gate-2", ["gate-2"]),
        ("the gate's lamp", ["gate"]),
        ("who investigates the gateway, the backyard and gate-20?", []),
        ("gate_2", []),
        ("", []),
    ],
)
def test_a_camera_is_named_by_its_id_as_a_word(text: str, cameras: list[str]) -> None:
    assert named(text, ["gate", "gate-2", "yard"]) == cameras


# gaps


def test_holes_are_named_longest_first_with_camera_and_time() -> None:
    hole = HOLE_MS // 1000
    found = gaps({"gate": instants([0, hole, 2 * hole + 1]), "yard": instants([0, 100])}, None)
    assert [(g.camera_id, g.span) for g in found] == [("yard", between(0, 100)), ("gate", between(hole, 2 * hole + 1))]
    assert clock(at(100)) in found[0].reason
    assert "yard" in found[0].reason


def test_the_edges_of_the_time_asked_about_count_and_so_does_a_camera_with_nothing() -> None:
    found = gaps({"gate": instants([50, 55]), "yard": instants([])}, between(0, 100))
    assert [(g.camera_id, g.span) for g in found] == [("yard", between(0, 100)), ("gate", between(0, 50)), ("gate", between(55, 100))]


@unhurried
@given(st.lists(st.integers(0, 300), unique=True).map(sorted))
def test_no_more_gaps_are_named_than_people_read_and_those_are_the_longest(seconds: list[int]) -> None:
    found = [g.span.end_ms - g.span.start_ms for g in gaps({"gate": instants(seconds)}, None)]
    holes = sorted((1000 * (b - a) for a, b in zip(seconds, seconds[1:], strict=False) if 1000 * (b - a) > HOLE_MS), reverse=True)
    assert found == holes[:GAPS]


def test_a_camera_that_has_been_silent_until_now_is_a_gap() -> None:
    answer = answerer(Decoder(), Memory({"gate": [0, 5]}), now_s=3600).answer(Question(text="Is there a car now?"))
    assert [(g.camera_id, g.span) for g in answer.gaps] == [("gate", between(5, 3600))]


def test_a_camera_of_which_nothing_is_remembered_is_a_gap() -> None:
    answer = answerer(Decoder(), Memory({"gate": [99, 100], "yard": []})).answer(Question(text="Is there a car now?"))
    assert [g.camera_id for g in answer.gaps] == ["yard"]


def test_what_is_yet_to_come_is_no_gap() -> None:
    memory = Memory({"gate": [92, 96, 100]})
    assert answerer(Decoder(), memory).answer(Question(text="?", when=between(90, 4000))).gaps == ()


def test_what_was_lost_is_the_reason_of_its_hole_or_a_gap_of_its_own() -> None:
    lost = [
        Gap(camera_id=c, span=between(a, b), reason=f"{c} {a} lost") for c, a, b in (("gate", 20, 30), ("gate", 3, 4), ("yard", 20, 30))
    ]
    memory = Memory({"gate": [0, 2, 4, 40, 45], "yard": list(range(46))}, lost=lost)
    found = answerer(Decoder(), memory, now_s=45).answer(Question(text="?")).gaps
    assert [(g.camera_id, g.span) for g in found] == [("gate", between(4, 40)), ("yard", between(20, 30)), ("gate", between(3, 4))]
    assert found[0].reason.endswith("; gate 20 lost") and found[1].reason.startswith("yard 20 lost")
    assert [g.span for g in answerer(Decoder(), memory, now_s=45).answer(Question(text="?", when=between(0, 6))).gaps] == [between(3, 4)]
