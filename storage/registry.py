"""What the running site is told and what it reports: cameras, rules, statuses and alerts, as JSON, in the same Redis or its own."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from pipeline.core import STILL_S, Alert, Camera, CameraPhase, CameraStatus, Evidence, LongwatchError, Rule, TimeRange
from storage import keys
from storage.connect import connect, reaching
from storage.guard import now_ms

ALERTS_KEPT = 1000

Entry = TypeVar("Entry", Camera, CameraStatus, Rule, Alert)
Fields = dict[str, Any]


class BadEntry(LongwatchError):
    """A camera, rule, status or alert that cannot be kept. The message names fields, never what they hold."""


class Registry:
    """Desired state and reports. Safe to share between threads. Raises StoreUnavailable, after a bounded wait.

    What was added wrongly raises BadEntry; what is found malformed is left out and counted in `skipped` by kind.
    """

    def __init__(self, url: str, *, timeout_s: float = 1.0) -> None:
        self.skipped: Counter[str] = Counter()
        self._client = connect(url, timeout_s)

    def add_camera(self, camera: Camera) -> None:
        """Adds a camera, or replaces the one of that id."""
        entry = _to_json(camera, _camera)
        with reaching():
            self._client.hset(keys.CAMERAS, camera.id, entry)

    def remove_camera(self, camera_id: str) -> bool:
        """False when there was none. What it saw stays until CarrierStore.forget."""
        with reaching():
            return bool(self._client.hdel(keys.CAMERAS, camera_id))

    def cameras(self) -> list[Camera]:
        """All cameras, by id."""
        with reaching():
            entries = self._client.hvals(keys.CAMERAS)
        return sorted(self._from_json(entries, _camera), key=lambda camera: camera.id)

    def add_rule(self, rule: Rule) -> None:
        """Adds a rule, or replaces the one of that id."""
        entry = _to_json(rule, _rule)
        with reaching():
            self._client.hset(keys.RULES, rule.id, entry)

    def remove_rule(self, rule_id: str) -> bool:
        """False when there was none."""
        with reaching():
            return bool(self._client.hdel(keys.RULES, rule_id))

    def rules(self) -> list[Rule]:
        """All rules, by id."""
        with reaching():
            entries = self._client.hvals(keys.RULES)
        return sorted(self._from_json(entries, _rule), key=lambda rule: rule.id)

    def term(self) -> int:
        """A number above all that this gave before, and by the clock, so that one that lost its memory gives no old ones again."""

        def later(pipe: Any) -> int:
            term = max(now_ms(), int(pipe.get(keys.TERM) or 0) + 1)
            pipe.multi()
            pipe.set(keys.TERM, term)
            return term

        with reaching():
            return int(self._client.transaction(later, keys.TERM, value_from_callable=True))

    def report(self, statuses: Sequence[CameraStatus], ttl_s: float = 10) -> None:
        """Says how cameras are; a status that is not repeated within `ttl_s` is gone."""
        entries = {status.camera_id: _to_json(status, _status) for status in statuses}
        if not entries:
            return
        with reaching(), self._client.pipeline(transaction=True) as pipe:
            for camera_id, entry in entries.items():
                pipe.set(keys.status(camera_id), entry, px=int(ttl_s * 1000))
            pipe.sadd(keys.REPORTING, *entries)
            pipe.execute()

    def statuses(self) -> dict[str, CameraStatus]:
        """The latest status of every camera that reports, by camera id."""
        with reaching():
            camera_ids = sorted(member.decode() for member in self._client.smembers(keys.REPORTING))
            entries = self._client.mget([keys.status(camera_id) for camera_id in camera_ids]) if camera_ids else []
        found = self._from_json((entry for entry in entries if entry is not None), _status)
        return {status.camera_id: status for status in found}

    def add_alert(self, alert: Alert) -> None:
        """Keeps an alert among the newest 1000; adding it again changes nothing."""
        entry = _to_json(alert, _alert)
        with reaching(), self._client.pipeline(transaction=True) as pipe:
            pipe.zadd(keys.ALERTS, {entry: alert.at_ms})
            pipe.zremrangebyrank(keys.ALERTS, 0, -ALERTS_KEPT - 1)
            pipe.execute()

    def add_alert_of_watched(self, alert: Alert) -> None:
        """`add_alert`, but one of a camera that was removed, and perhaps forgotten, while it was judged leaves no trace."""
        self.add_alert(alert)
        if all(camera.id != alert.camera_id for camera in self.cameras()):  # whoever removes it from now on finds the alert
            self.forget(alert.camera_id, TimeRange(start_ms=alert.at_ms, end_ms=alert.at_ms))

    def alerts(self, limit: int = 100) -> list[Alert]:
        """Alerts, newest first."""
        with reaching():
            entries = self._client.zrevrange(keys.ALERTS, 0, limit - 1) if limit > 0 else []
        return self._from_json(entries, _alert)

    def ever(self) -> list[str]:
        """The ids of the cameras that are watched, or were once and are not forgotten."""
        with reaching():
            return sorted({name.decode() for name in [*self._client.hkeys(keys.CAMERAS), *self._client.smembers(keys.REPORTING)]})

    def forget(self, camera_id: str, when: TimeRange | None = None) -> int:
        """Deletes the alerts of a camera, or those that rest on a time, and says how many; without a time, its status too."""
        with reaching():
            entries = self._client.zrange(keys.ALERTS, 0, -1)
            doomed = [entry for entry in entries if any(_tells(a, camera_id, when) for a in self._from_json([entry], _alert))]
            if when is None:
                self._client.unlink(keys.status(camera_id))
                self._client.srem(keys.REPORTING, camera_id)
            return int(self._client.zrem(keys.ALERTS, *doomed)) if doomed else 0

    def close(self) -> None:
        """Lets the connections go."""
        self._client.close()

    def _from_json(self, entries: Iterable[bytes], read: Callable[[Fields], Entry]) -> list[Entry]:
        found = []
        for entry in entries:
            try:
                found.append(read(json.loads(entry)))
            except (ValueError, TypeError, KeyError, LongwatchError):
                self.skipped[read.__name__.strip("_")] += 1
        return found


def _tells(alert: Alert, camera_id: str, when: TimeRange | None) -> bool:
    """Whether an alert is of a camera, or shows it, at a time."""
    seen = [(alert.camera_id, TimeRange(start_ms=alert.at_ms, end_ms=alert.at_ms)), *((e.camera_id, e.span) for e in alert.evidence)]
    return any(camera == camera_id and (when is None or when.overlaps(span)) for camera, span in seen)


def _to_json(value: Entry, read: Callable[[Fields], Entry]) -> str:
    """JSON that `read` is known to take back as the same value."""
    try:
        text = json.dumps(asdict(value), allow_nan=False)
        if read(json.loads(text)) != value:
            raise ValueError("a field is not of its type")
    except (ValueError, TypeError, LongwatchError) as error:
        # Not chained: the cause may hold a camera's password or a webhook's token.
        raise BadEntry(f"{read.__name__.strip('_')} refused: {error}") from None
    return text


def _camera(fields: Fields) -> Camera:
    return Camera(
        id=_typed(fields, "id", str),
        uri=_text(fields, "uri"),
        fps=_typed(fields, "fps", int, float),
        still_s=_typed({"still_s": STILL_S} | fields, "still_s", int, float),  # entries written before there was one have none
    )


def _status(fields: Fields) -> CameraStatus:
    return CameraStatus(
        camera_id=_text(fields, "camera_id"),
        phase=CameraPhase(fields["phase"]),
        frames=_typed(fields, "frames", int),
        dropped=_typed(fields, "dropped", int),
        still=_typed({"still": 0} | fields, "still", int),
        share=_typed({"share": 1.0} | fields, "share", int, float),
        room=_typed({"room": None} | fields, "room", int, float, type(None)),
        reconnects=_typed(fields, "reconnects", int),
        last_frame_ms=_typed(fields, "last_frame_ms", int, type(None)),
        error=_typed(fields, "error", str, type(None)),
    )


def _rule(fields: Fields) -> Rule:
    rule = Rule(
        id=_text(fields, "id"),
        condition=_text(fields, "condition"),
        cameras=tuple(_each(fields, "cameras", str)),
        threshold=_typed(fields, "threshold", int, float),
        cooldown_s=_typed(fields, "cooldown_s", int, float),
        webhook=_typed(fields, "webhook", str, type(None)),
    )
    if not (0 <= rule.threshold <= 1 and rule.cooldown_s >= 0):
        raise ValueError("threshold must be from 0 to 1 and cooldown_s not negative")
    return rule


def _alert(fields: Fields) -> Alert:
    return Alert(
        id=_text(fields, "id"),
        rule_id=_text(fields, "rule_id"),
        condition=_text(fields, "condition"),
        camera_id=_text(fields, "camera_id"),
        at_ms=_typed(fields, "at_ms", int),
        probability=_typed(fields, "probability", int, float),
        evidence=tuple(_evidence(one) for one in _each(fields, "evidence", dict)),
    )


def _evidence(fields: Fields) -> Evidence:
    span = _typed(fields, "span", dict)
    return Evidence(
        camera_id=_text(fields, "camera_id"),
        at_ms=_typed(fields, "at_ms", int),
        span=TimeRange(start_ms=_typed(span, "start_ms", int), end_ms=_typed(span, "end_ms", int)),
        score=_typed(fields, "score", int, float),
    )


def _typed(fields: Fields, name: str, *types: type) -> Any:
    """Exactly one of the types: a bool is no int."""
    value = fields[name]
    if type(value) not in types:
        raise TypeError(f"{name} must be {' or '.join(one.__name__ for one in types)}")
    return value


def _text(fields: Fields, name: str) -> str:
    text: str = _typed(fields, name, str)
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


def _each(fields: Fields, name: str, of: type) -> list[Any]:
    items: list[Any] = _typed(fields, name, list)
    if any(type(item) is not of for item in items):
        raise TypeError(f"{name} must be a list of {of.__name__}")
    return items
