from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pipeline.core import Alert, Camera, Evidence, LongwatchError, Rule, StoreUnavailable, TimeRange
from pipeline.rules import TOGETHER, CannotJudge, Judgement, RuleEngine, Standing

START_MS = 1_700_000_000_000
RULE = Rule(id="r1", condition="a truck is at the dock", cooldown_s=10)


@dataclass
class Site:
    """Cameras that see what a test says: one fake for the judge, the memory and the registry."""

    listed: list[Rule]
    ids: tuple[str, ...] = ("dock", "gate", "gate-2")
    at_s: dict[str, float] = field(default_factory=dict)
    sure: dict[str, float] = field(default_factory=dict)  # probability by camera
    broken: dict[str, Exception] = field(default_factory=dict)  # by condition
    asked: list[tuple[str, str]] = field(default_factory=list)
    together: list[int] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)

    def cameras(self) -> list[Camera]:
        return [Camera(id=one, uri="x") for one in self.ids]

    def rules(self) -> list[Rule]:
        return self.listed

    def newest(self, camera_id: str) -> int | None:
        return START_MS + int(self.at_s[camera_id] * 1000) if camera_id in self.at_s else None

    def judge(self, standing: Sequence[Standing]) -> list[Judgement | None]:
        self.together.append(len(standing))
        for one in standing:
            if one.condition in self.broken:
                raise self.broken[one.condition]
        self.asked += [(one.condition, one.camera_id) for one in standing]
        return [None if one.camera_id in self.forgotten else self._judged(one.camera_id) for one in standing]

    def _judged(self, camera_id: str) -> Judgement:
        at_ms = self.newest(camera_id)
        assert at_ms is not None
        seen = Evidence(camera_id=camera_id, at_ms=at_ms, span=TimeRange(start_ms=at_ms, end_ms=at_ms), score=1.0)
        return Judgement(probability=self.sure.get(camera_id, 0.0), at_ms=at_ms, evidence=(seen,))

    def engine(self, *recent: Alert) -> RuleEngine:
        return RuleEngine(self.judge, self, self, recent)


def play(site: Site, engine: RuleEngine, story: list[tuple[float, float]]) -> list[float]:
    """The times (s) at which the dock alerted, for a story of (second, probability)."""
    fired = []
    for at_s, probability in story:
        site.at_s["dock"], site.sure["dock"] = at_s, probability
        fired += [(alert.at_ms - START_MS) / 1000 for alert in engine.check()]
    return fired


@pytest.mark.parametrize(
    ("story", "fired"),
    [
        ([(0, 0.1), (1, 0.9)], [1]),
        ([(0, 0.5)], [0]),  # the threshold itself is enough
        ([(0, 0.49)], []),
        ([(0, float("nan"))], []),
        ([(t, 0.9) for t in range(60)], [0]),  # lasting: once
        ([(0, 0.9), (1, 0.1), (5, 0.9), (9.9, 0.9)], [0]),  # false in between, but within the cooldown
        ([(0, 0.9), (1, 0.1), (5, 0.9), (10, 0.9)], [0, 10]),  # still true when the cooldown ends
        ([(0, 0.9), (20, 0.9), (21, 0.1), (22, 0.9)], [0, 22]),  # cooldown over, but true all the while until 21
        ([(0, 0.9), (20, 0.1), (21, 0.9)], [0, 21]),
    ],
)
def test_when_a_rule_fires(story: list[tuple[float, float]], fired: list[float]) -> None:
    site = Site([RULE])
    assert play(site, site.engine(), story) == fired


def test_an_alert_says_what_was_seen() -> None:
    site = Site([RULE], at_s={"dock": 7}, sure={"dock": 0.8})
    (alert,) = site.engine().check()
    assert (alert.rule_id, alert.condition, alert.camera_id, alert.at_ms) == ("r1", RULE.condition, "dock", START_MS + 7000)
    assert alert.probability == 0.8 and alert.evidence[0].at_ms == START_MS + 7000
    assert alert.id == site.engine().check()[0].id  # the same moment is the same alert


def test_each_carrier_is_judged_once() -> None:
    site = Site([RULE], at_s={"dock": 7})
    engine = site.engine()
    for _ in range(3):
        engine.check()
    assert len(site.asked) == 1
    site.at_s["dock"] = 8
    engine.check()
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    ("rule", "cameras"),
    [
        (Rule(id="r", condition="a person is at the gate"), ["gate"]),
        (Rule(id="r", condition="Someone at GATE-2, or the dock."), ["dock", "gate-2"]),
        (Rule(id="r", condition="the docks are on fire"), ["dock", "gate", "gate-2"]),
        (Rule(id="r", condition="a person is at the gate", cameras=("dock",)), ["dock"]),
        (Rule(id="r", condition="x", cameras=("unknown",)), []),
    ],
)
def test_which_cameras_a_rule_watches(rule: Rule, cameras: list[str]) -> None:
    site = Site([rule], at_s={"dock": 1, "gate": 1, "gate-2": 1})
    site.engine().check()
    assert [camera_id for _, camera_id in site.asked] == cameras


def test_cameras_alert_and_cool_down_apart() -> None:
    site = Site([Rule(id="r", condition="fire", cooldown_s=10)], ids=("dock", "gate"), at_s={"dock": 1, "gate": 1}, sure={"dock": 1})
    engine = site.engine()
    assert [alert.camera_id for alert in engine.check()] == ["dock"]
    site.at_s, site.sure = {"dock": 2, "gate": 2}, {"dock": 1, "gate": 1}
    assert [alert.camera_id for alert in engine.check()] == ["gate"]


def test_a_failed_question_stops_no_other_and_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    bad = Rule(id="bad", condition="unanswerable", cameras=("dock",))
    site = Site([bad, RULE], at_s={"dock": 1}, sure={"dock": 1}, broken={"unanswerable": CannotJudge("too long")})
    engine = site.engine()
    assert [alert.rule_id for alert in engine.check()] == ["r1"]
    assert engine.failures == {"bad": 1} and "too long" in caplog.text
    site.broken.clear()
    assert [alert.rule_id for alert in engine.check()] == ["bad"]


def test_many_are_judged_together_and_one_that_cannot_be_is_found_in_few_questions() -> None:
    rules = [Rule(id=f"r{i}", condition=f"{i}", cameras=("dock",)) for i in range(TOGETHER + 8)]
    site = Site(rules, at_s={"dock": 1}, sure={"dock": 1})
    engine = site.engine()
    assert len(engine.check()) == len(rules) and site.together == [TOGETHER, 8]
    site.together.clear()
    site.at_s["dock"], site.broken["5"] = 2, CannotJudge("unanswerable")
    engine.check()
    assert engine.failures == {"r5": 1} and len(site.asked) == 2 * len(rules) - 1
    assert len(site.together) <= 2 * TOGETHER.bit_length() + 1


def test_what_fails_for_all_is_not_asked_one_by_one() -> None:
    rules = [Rule(id=f"r{i}", condition=f"{i}", cameras=("dock",)) for i in range(TOGETHER)]
    site = Site(rules, at_s={"dock": 1}, sure={"dock": 1}, broken={"5": StoreUnavailable("no store")})
    engine = site.engine()
    assert engine.check() == [] and site.together == [TOGETHER] and engine.failures.total() == TOGETHER
    site.broken.clear()
    assert len(engine.check()) == TOGETHER


def test_a_camera_that_is_forgotten_while_it_is_judged_is_no_failure() -> None:
    site = Site([RULE], at_s={"dock": 1}, sure={"dock": 1}, forgotten={"dock"})
    engine = site.engine()
    assert engine.check() == [] and not engine.failures
    site.forgotten.clear()
    assert [alert.at_ms for alert in engine.check()] == [START_MS + 1000]


def test_a_defect_is_not_taken_for_a_failed_question() -> None:
    site = Site([RULE], at_s={"dock": 1}, broken={RULE.condition: ZeroDivisionError()})
    with pytest.raises(ZeroDivisionError):
        site.engine().check()
    assert not issubclass(ZeroDivisionError, LongwatchError)


def test_an_engine_that_starts_again_does_not_repeat_itself() -> None:
    site = Site([RULE])
    site.at_s, site.sure = {"dock": 1}, {"dock": 1}
    fired = site.engine().check()
    assert play(site, site.engine(*fired), [(1, 1), (2, 1), (20, 1)]) == []
    assert play(site, site.engine(*fired), [(2, 1), (3, 0), (4, 1), (11, 1)]) == [11]


def test_a_reworded_or_readded_rule_starts_anew_and_nothing_is_kept_of_removed_ones() -> None:
    site = Site([RULE], at_s={"dock": 1}, sure={"dock": 1})
    engine = site.engine()
    assert len(engine.check()) == 1
    site.listed = [Rule(id="r1", condition="a van is at the dock")]
    assert len(engine.check()) == 1
    site.listed = []
    assert engine.check() == [] and not engine._watches
