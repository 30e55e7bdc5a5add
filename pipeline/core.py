"""The values that flow through Longwatch: frames in, carriers kept, answers out.

Absolute times are UTC milliseconds since 1970 (`*_ms`): exact in a Redis score, and fine enough for any camera.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CAMERA_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

VECTOR = 32  # numbers in what the relevance of a carrier is scored on
MAX_BYTES = 16 << 20  # of what is kept of one frame, patches too
MAX_NUMBERS = MAX_BYTES // 4  # in one array of it, however small their coding: so much once restored

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""bfloat16, which numpy lacks: its 16 bits under its name. See `model.arrays`."""


STILL_S = 8.0
"""No camera that sees is silent for longer, even where nothing changes."""


def clock(at_ms: int) -> str:
    """A time as people read it: local, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%H:%M:%S")


def named(text: str, cameras: Iterable[str]) -> list[str]:
    """The cameras whose ids stand in a text as words: "gate" is not in "gate-2"."""
    words = set(re.findall(r"[a-z0-9_-]+", text.lower()))
    return [camera for camera in cameras if camera in words]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRange:
    """A closed span of UTC milliseconds."""

    start_ms: int
    end_ms: int

    def __contains__(self, at_ms: int) -> bool:
        return self.start_ms <= at_ms <= self.end_ms

    def overlaps(self, other: "TimeRange") -> bool:
        """Whether a moment is in both."""
        return self.start_ms <= other.end_ms and other.start_ms <= self.end_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera as configured. `uri` may hold credentials: show it only through `pipeline.redact`."""

    id: str
    uri: str = field(repr=False)
    fps: float = 1.0  # frames a second given to the model
    still_s: float = STILL_S  # a picture in which nothing has changed is given to it only so often; 0: each one is

    def __post_init__(self) -> None:
        if not CAMERA_ID.fullmatch(self.id):
            raise BadCamera(f"camera id {self.id!r}: use 1-63 of a-z, 0-9, '-' and '_', starting with a letter or digit")
        if not 0 < self.fps <= 30:
            raise BadCamera(f"camera {self.id}: fps must be above 0 and at most 30, not {self.fps}")
        if not 0 <= self.still_s <= STILL_S:
            raise BadCamera(f"camera {self.id}: still_s must be from 0 to {STILL_S:g}, not {self.still_s}: a longer silence would be a gap")


class CameraPhase(StrEnum):
    """Where a camera stands with its supervisor."""

    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"  # waiting to reconnect
    ENDED = "ended"  # a file that was played to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraStatus:
    """What the ingest knows of one camera now."""

    camera_id: str
    phase: CameraPhase
    frames: int = 0  # handed on to prefill
    dropped: int = 0  # replaced by newer ones before prefill took them
    still: int = 0  # not handed on, since nothing had changed
    share: float = 1.0  # of its rate that it is sampled at: less while prefill does not keep up
    room: float | None = None  # frames a second that prefill could take beside all cameras' own; None: not foreseeable
    reconnects: int = 0
    last_frame_ms: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One sampled picture with both clocks: `pts_ns` orders frames within a connection, `captured_ms` is shown to people."""

    camera_id: str
    pts_ns: int
    captured_ms: int
    image: NDArray[np.uint8]  # [height, width, 3] RGB, read-only


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CarrierKey:
    """Names one carrier: a camera and the capture time of its frame."""

    camera_id: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patches:
    """Visual tokens of a frame that are kept beside its carrier, in each layer its own.

    `kv` [layers, 2, kv_heads, patches, head_dim] as that of `Carrier`; `places` [layers, patches] where in the frame, ascending.
    """

    kv: NDArray[Any]
    places: NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Carrier:
    """One frame's semantic carrier (arXiv 2503.09387, 3.2): the unit of put, select and evict.

    `embedding` [hidden] is the mean of the frame's visual tokens. `kv` [layers, 2, kv_heads, head_dim] holds the carrier
    token's keys BEFORE rotary embedding (index 0) and values (index 1) of every layer. `vector` [VECTOR] is what its relevance is
    scored on; kept apart (docs/format.md), it does not come back with what is read from a store.
    """

    key: CarrierKey
    fingerprint: str  # of the ModelSpec that made it; no other model may read it
    span: TimeRange  # the time it stands for
    embedding: NDArray[Any]  # float16 or float32
    kv: NDArray[Any]  # float16, float32 or BFLOAT16
    patches: Patches | None = None  # None: its model keeps none, or they are forgotten
    vector: NDArray[np.float32] | None = None  # None: its model has no head for relevance, or it was read from a store

    @property
    def nbytes(self) -> int:
        """What its numbers take."""
        beside = self.patches.kv.nbytes + self.patches.places.nbytes if self.patches else 0
        return self.embedding.nbytes + self.kv.nbytes + beside


Mode = Literal["carriers", "training-free"]
"""What a model reads of a frame: the carrier that it was taught to read, or, never taught, only its visual tokens (docs/backbones.md)."""

LivePolicy = Literal["paper", "recency", "uniform", "merge"]
"""Which carrier leaves a full live memory: `model.memory`."""


class Form(StrEnum):
    """How exactly the numbers of a carrier are kept in the long-term memory."""

    EXACT = "exact"  # as computed, bit for bit
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A prefiller's right to write one camera."""

    epoch: int  # the highest has it
    generation: str  # of the memory as it was claimed; a deletion begins another
    grant: int = 0  # of `pipeline.sharing`, by which it was claimed: nobody claims by an earlier one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CarrierWrite:
    """What is kept of one frame."""

    carrier: Carrier
    picture: bytes = field(repr=False)  # JPEG
    live: tuple[int, ...]  # at_ms of the camera's live memory after this carrier
    claim: Claim | None = None  # None: nobody else writes this camera
    repeats: int | None = None  # at_ms of an earlier one that shows the same: where that is kept, it stands for this one as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an analyst asks. No cameras means those named in the text, or all; no time means everything remembered."""

    text: str
    cameras: tuple[str, ...] = ()
    when: TimeRange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A moment that the answer rests on, and how much of the answer's attention it drew (0 to 1)."""

    camera_id: str
    at_ms: int  # the carrier, and the picture, at the centre
    span: TimeRange
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time that was asked about but is not remembered, and why."""

    camera_id: str
    span: TimeRange
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is remembered of one camera now. Bytes are estimated from a sample of the values."""

    camera_id: str
    span: TimeRange | None  # of the carriers
    carriers: int = 0
    carrier_bytes: int = 0
    pictures: int = 0
    picture_bytes: int = 0
    gaps: tuple[Gap, ...] = ()  # newest last


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was said, how sure, on what grounds, and what could not be looked at."""

    text: str
    probability: float  # of the words said, by the model
    evidence: tuple[Evidence, ...]  # best first; empty when nothing was seen
    gaps: tuple[Gap, ...]
    cameras: tuple[str, ...]  # looked at
    carriers: int  # looked at
    model: str  # fingerprint
    mode: Mode
    took_ms: float
    first_ms: float  # of these, until its first word


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition in words that is watched for on every new carrier."""

    id: str
    condition: str  # "a truck is at the dock"
    cameras: tuple[str, ...] = ()  # none: those named in the condition, or all
    threshold: float = 0.5  # least probability of yes
    cooldown_s: float = 30.0  # silence per camera after an alert
    webhook: str | None = field(default=None, repr=False)  # may hold a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A rule that came true."""

    id: str
    rule_id: str
    condition: str
    camera_id: str
    at_ms: int
    probability: float
    evidence: tuple[Evidence, ...]


class LongwatchError(Exception):
    """Anything that went wrong in a way Longwatch knows of."""


class BadCamera(LongwatchError):
    """A camera that cannot be taken as described."""


class UnknownCamera(LongwatchError):
    """A camera that is not, and was not, watched."""


class BadSpan(LongwatchError):
    """A span of time that cannot be meant."""


class NoMemory(LongwatchError):
    """Nothing is remembered of the cameras and the time asked about."""


class TooLate(LongwatchError):
    """An answer that took longer than anybody waits."""


class Superseded(LongwatchError):
    """A camera's memory is no longer what its prefiller knows: another took the camera over, or something was deleted."""


class StoreUnavailable(LongwatchError):
    """The long-term memory cannot be reached now."""
