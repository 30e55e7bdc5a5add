"""Watches for what people describe in words: every standing rule, on every new carrier of its cameras."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.core import Alert, Camera, Evidence, LongwatchError, Rule, named

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How likely a condition holds at a camera now."""

    probability: float  # of yes
    at_ms: int  # the newest carrier it rests on
    evidence: tuple[Evidence, ...]


class _Judge(Protocol):
    def __call__(self, condition: str, camera_id: str, /) -> Judgement: ...


class _Memory(Protocol):
    def newest(self, camera_id: str, /) -> int | None: ...


class _Site(Protocol):
    def cameras(self) -> Sequence[Camera]: ...

    def rules(self) -> Sequence[Rule]: ...


@dataclass(slots=True)
class _Watch:
    """Where one condition stands at one camera; times are those of carriers."""

    armed: bool = True  # seen false since it last fired
    judged_ms: int | None = None
    fired_ms: int | None = None


_WatchKey = tuple[str, str, str]  # rule id, condition, camera id: a reworded rule starts anew


class RuleEngine:
    """Fires when a condition becomes true, once: it must have been false since its last alert, AND the cooldown must be over.

    So a lasting condition alerts once, and a flickering one at most once per cooldown. Time is that of the carriers throughout,
    which makes a replay fire as the original did; hence no clock. Not for sharing between threads.
    `recent` alerts keep an engine that starts again from repeating them. `failures` counts by rule the questions that failed.
    """

    def __init__(self, judge: _Judge, memory: _Memory, site: _Site, recent: Iterable[Alert] = ()) -> None:
        self.failures: Counter[str] = Counter()
        self._judge = judge
        self._memory = memory
        self._site = site
        self._watches: dict[_WatchKey, _Watch] = {}
        for alert in sorted(recent, key=lambda alert: alert.at_ms):
            key = (alert.rule_id, alert.condition, alert.camera_id)
            self._watches[key] = _Watch(armed=False, judged_ms=alert.at_ms, fired_ms=alert.at_ms)

    def check(self) -> list[Alert]:
        """Judges every rule at each of its cameras that has a newer carrier than the one last judged there.

        A question that fails is counted and asked again at the next check. Raises what the site raises when it cannot be read.
        """
        known = [camera.id for camera in self._site.cameras()]
        pairs = [(rule, camera_id) for rule in self._site.rules() for camera_id in _cameras_of(rule, known)]
        watches = {_key(rule, camera_id): self._watches.get(_key(rule, camera_id), _Watch()) for rule, camera_id in pairs}
        self._watches = watches  # those of removed rules and cameras go
        found = (self._try_one(rule, camera_id, watches[_key(rule, camera_id)]) for rule, camera_id in pairs)
        return [alert for alert in found if alert]

    def _try_one(self, rule: Rule, camera_id: str, watch: _Watch) -> Alert | None:
        try:
            return self._check_one(rule, camera_id, watch)
        except LongwatchError as error:
            self.failures[rule.id] += 1
            log.warning("rule %s at camera %s failed (%d so far): %s", rule.id, camera_id, self.failures[rule.id], error)
            return None

    def _check_one(self, rule: Rule, camera_id: str, watch: _Watch) -> Alert | None:
        newest_ms = self._memory.newest(camera_id)
        if newest_ms is None or (watch.judged_ms is not None and newest_ms <= watch.judged_ms):
            return None
        judgement = self._judge(rule.condition, camera_id)
        watch.judged_ms = newest_ms
        if not judgement.probability >= rule.threshold:  # so that NaN is no alarm
            watch.armed = True
            return None
        if not watch.armed or (watch.fired_ms is not None and judgement.at_ms - watch.fired_ms < rule.cooldown_s * 1000):
            return None
        watch.armed, watch.fired_ms = False, judgement.at_ms
        return _alert(rule, camera_id, judgement)


def _key(rule: Rule, camera_id: str) -> _WatchKey:
    return rule.id, rule.condition, camera_id


def _cameras_of(rule: Rule, known: Sequence[str]) -> Sequence[str]:
    """Those given, else those named in the condition, else all."""
    return rule.cameras or named(rule.condition, known) or known


def _alert(rule: Rule, camera_id: str, judgement: Judgement) -> Alert:
    return Alert(
        id=f"{rule.id}.{camera_id}.{judgement.at_ms}",  # the same moment told twice is one alert
        rule_id=rule.id,
        condition=rule.condition,
        camera_id=camera_id,
        at_ms=judgement.at_ms,
        probability=judgement.probability,
        evidence=judgement.evidence,
    )
