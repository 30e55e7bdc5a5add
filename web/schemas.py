"""What travels over HTTP: bodies with unknown keys forbidden, answers that show no credential."""

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from pipeline import core
from pipeline.redact import redact

UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
AGO = re.compile(r"-(\d{1,6})([smhd])")
SECONDS = re.compile(r"\d{1,10}(\.\d{1,6})?", re.ASCII)
YEAR_2100_S = 4_102_444_800  # a number above it is milliseconds by mistake
TIME_HELP = "use ISO-8601 with an offset (2026-01-31T08:00:00Z), UNIX seconds, or a time ago such as -15m (s, m, h or d)"


def now_ms() -> int:
    """The present, in UTC milliseconds."""
    return time.time_ns() // 1_000_000


def moment_ms(value: object, now: int) -> int:
    """The time that a client names, in UTC milliseconds; `now` anchors a time ago."""
    if isinstance(value, str) and (ago := AGO.fullmatch(value)):
        return max(0, now - int(ago[1]) * UNIT_MS[ago[2]])
    if isinstance(value, str) and SECONDS.fullmatch(value):  # in a query, everything is text
        value = float(value)
    if isinstance(value, str) and len(value) <= 40:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"not a time: {TIME_HELP}") from None
        if at.tzinfo is None:
            raise ValueError(f"a time without its offset from UTC: {TIME_HELP}")
        value = at.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= YEAR_2100_S:
        raise ValueError(f"not a time: {TIME_HELP}")
    return round(value * 1000)


def iso(at_ms: int) -> str:
    """A time as machines read it: ISO-8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def uri_parts(uri: str) -> tuple[str, str]:
    """Scheme and host of a URI (each may be empty); a ValueError here never repeats the URI."""
    if not uri.isprintable() or " " in uri:
        raise ValueError("a URI holds no blanks and no control characters")
    try:
        parts = urlsplit(uri)
        return parts.scheme, f"{parts.hostname or ''}:{parts.port}".removesuffix(":None")
    except ValueError:
        raise ValueError("its host or port cannot be read") from None


Id = Annotated[str, Field(pattern=rf"^{core.CAMERA_ID.pattern}$", examples=["gate"])]
Moment = Annotated[
    int,
    BeforeValidator(lambda value: moment_ms(value, now_ms())),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}], "description": TIME_HELP, "examples": ["-15m"]}),
]


class Body(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamBody(Body):
    """A camera to watch."""

    id: Id
    uri: str = Field(min_length=1, max_length=2048, examples=["rtsp://camera.lan/stream"])
    fps: float = 1.0
    still_s: float = core.STILL_S


class RuleBody(Body):
    """A condition in words to watch for."""

    id: Id | None = None
    condition: str = Field(min_length=1, max_length=500, pattern=r"\S", examples=["a truck is at the dock"])
    cameras: list[Id] = Field(default=[], max_length=256)
    threshold: float = Field(default=0.5, ge=0, le=1)
    cooldown_s: float = Field(default=30.0, ge=0, le=604_800)
    webhook: str | None = Field(default=None, max_length=2048)

    @model_validator(mode="after")
    def _webhook_is_http(self) -> Self:
        if self.webhook is not None:
            scheme, host = uri_parts(self.webhook)
            if scheme not in ("http", "https") or not host:
                raise ValueError("webhook: use http:// or https:// and a host")
        return self

    def rule(self, *, made_id: str) -> core.Rule:
        """The rule as the rule engine takes it."""
        return core.Rule(
            id=self.id or made_id,
            condition=self.condition.strip(),
            cameras=tuple(dict.fromkeys(self.cameras)),
            threshold=self.threshold,
            cooldown_s=self.cooldown_s,
            webhook=self.webhook,
        )


class SpanOut(BaseModel):
    """A closed span of time."""

    start: str
    end: str

    @classmethod
    def of(cls, span: core.TimeRange) -> Self:
        """The span as it is sent."""
        return cls(start=iso(span.start_ms), end=iso(span.end_ms))


class EvidenceOut(BaseModel):
    """A moment that an answer or an alert rests on, and where its picture is."""

    camera: str
    at: str
    at_ms: int
    start: str
    end: str
    score: float
    picture: str

    @classmethod
    def of(cls, evidence: core.Evidence) -> Self:
        """The evidence as it is sent."""
        camera, at_ms, span = evidence.camera_id, evidence.at_ms, evidence.span
        return cls(
            camera=camera,
            at=iso(at_ms),
            at_ms=at_ms,
            start=iso(span.start_ms),
            end=iso(span.end_ms),
            score=evidence.score,
            picture=f"/v1/frames/{camera}/{at_ms}.jpg",
        )


class GapOut(BaseModel):
    """A time that was asked about but is not remembered, and why."""

    camera: str
    start: str
    end: str
    reason: str

    @classmethod
    def of(cls, gap: core.Gap) -> Self:
        """The gap as it is sent."""
        return cls(camera=gap.camera_id, start=iso(gap.span.start_ms), end=iso(gap.span.end_ms), reason=redact(gap.reason))


class StreamOut(BaseModel):
    """A camera, how it does, and what is remembered of it."""

    id: str
    uri: str  # redacted
    fps: float
    still_s: float
    phase: core.CameraPhase | Literal["unwatched"]
    frames: int
    dropped: int
    still: int
    share: float  # of its rate that is sampled now
    reconnects: int
    last_frame: str | None
    last_frame_ms: int | None
    error: str | None
    remembered: SpanOut | None

    @classmethod
    def of(cls, camera: core.Camera, status: core.CameraStatus | None, span: core.TimeRange | None) -> Self:
        """The camera as it is sent; without a status, no ingest looks after it."""
        s = status or core.CameraStatus(
            camera_id=camera.id, phase=core.CameraPhase.LOST, error="no ingest process reports on it; is one up?"
        )
        return cls(
            id=camera.id,
            uri=redact(camera.uri),
            fps=camera.fps,
            still_s=camera.still_s,
            phase=s.phase if status else "unwatched",
            frames=s.frames,
            dropped=s.dropped,
            still=s.still,
            share=s.share,
            reconnects=s.reconnects,
            last_frame=None if s.last_frame_ms is None else iso(s.last_frame_ms),
            last_frame_ms=s.last_frame_ms,
            error=redact(s.error) if s.error else None,
            remembered=SpanOut.of(span) if span else None,
        )


class RuleOut(BaseModel):
    """A rule; of its webhook only the host, since the rest may hold a key."""

    id: str
    condition: str
    cameras: list[str]
    threshold: float
    cooldown_s: float
    webhook_host: str | None

    @classmethod
    def of(cls, rule: core.Rule) -> Self:
        """The rule as it is sent."""
        return cls(
            id=rule.id,
            condition=rule.condition,
            cameras=list(rule.cameras),
            threshold=rule.threshold,
            cooldown_s=rule.cooldown_s,
            webhook_host=uri_parts(rule.webhook)[1] if rule.webhook else None,
        )


class AlertOut(BaseModel):
    """A rule that came true, and the pictures that show it."""

    id: str
    rule_id: str
    condition: str
    camera: str
    at: str
    at_ms: int
    probability: float
    evidence: list[EvidenceOut]

    @classmethod
    def of(cls, alert: core.Alert) -> Self:
        """The alert as it is sent."""
        return cls(
            id=alert.id,
            rule_id=alert.rule_id,
            condition=alert.condition,
            camera=alert.camera_id,
            at=iso(alert.at_ms),
            at_ms=alert.at_ms,
            probability=alert.probability,
            evidence=[EvidenceOut.of(e) for e in alert.evidence],
        )
