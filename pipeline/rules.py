"""Watches for what people describe in words: every standing rule, on every new carrier of its cameras."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.core import Alert, Camera, Evidence, LongwatchError, Rule, named

log = logging.getLogger(__name__)


TOGETHER = 32  # conditions that are judged at once


class CannotJudge(LongwatchError):
    """One of several conditions, or each, cannot be judged, though others can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A condition to be judged at a camera."""

    condition: str
    camera_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How likely a condition holds at a camera now."""

    probability: float  # of yes
    at_ms: int  # the newest carrier it rests on
    evidence: tuple[Evidence, ...]


class _Judge(Protocol):
    def __call__(self, standing: Sequence[Standing], /) -> Sequence[Judgement | None]: ...


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


@dataclass(frozen=True, slots=True)
class _Due:
    """A rule that is to be judged at a camera, on what was remembered last."""

    rule: Rule
    camera_id: str
    newest_ms: int
    watch: _Watch

    def alert(self, told: Judgement) -> Alert | None:
        """What comes of a judgement."""
        watch = self.watch
        watch.judged_ms = self.newest_ms
        if not told.probability >= self.rule.threshold:  # so that NaN is no alarm
            watch.armed = True
            return None
        if not watch.armed or (watch.fired_ms is not None and told.at_ms - watch.fired_ms < self.rule.cooldown_s * 1000):
            return None
        watch.armed, watch.fired_ms = False, told.at_ms
        return _alert(self.rule, self.camera_id, told)


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

        A question that fails is counted and asked again at the next check. Raises what the site and the memory raise when they cannot
        be read.
        """
        known = [camera.id for camera in self._site.cameras()]
        pairs = [(rule, camera_id) for rule in self._site.rules() for camera_id in _cameras_of(rule, known)]
        watches = {_key(rule, camera_id): self._watches.get(_key(rule, camera_id), _Watch()) for rule, camera_id in pairs}
        self._watches = watches  # those of removed rules and cameras go
        newest = {camera_id: self._memory.newest(camera_id) for camera_id in {camera_id for _, camera_id in pairs}}
        stand = [_Due(rule, camera_id, at_ms, watches[_key(rule, camera_id)]) for rule, camera_id in pairs if (at_ms := newest[camera_id])]
        due = [one for one in stand if one.newest_ms > (one.watch.judged_ms or 0)]
        told = [each for at in range(0, len(due), TOGETHER) for each in self._judged(due[at : at + TOGETHER])]
        return [alert for one, judgement in zip(due, told, strict=True) if judgement and (alert := one.alert(judgement))]

    def _judged(self, some: Sequence[_Due]) -> Sequence[Judgement | None]:
        """None for those that failed."""
        try:
            return self._judge([Standing(condition=one.rule.condition, camera_id=one.camera_id) for one in some])
        except CannotJudge as error:
            if half := len(some) // 2:
                return [*self._judged(some[:half]), *self._judged(some[half:])]
            self._failed(some, error)
        except LongwatchError as error:
            self._failed(some, error)
        return [None] * len(some)

    def _failed(self, some: Sequence[_Due], error: LongwatchError) -> None:
        for one in some:
            count = self.failures[one.rule.id] = self.failures[one.rule.id] + 1
            log.warning("rule %s at camera %s failed (%d so far): %s", one.rule.id, one.camera_id, count, error)


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
