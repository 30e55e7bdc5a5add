"""How a running Longwatch does, told from two looks at its API some seconds apart."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from pipeline.core import LongwatchError

Get = Callable[[str], httpx.Response]
Series = Mapping[tuple[str, str], float]  # by name and the one label that matters here

WINDOW_S = 60.0
PHASES_DOWN = ("connecting", "lost", "unwatched")
LABEL = {
    "longwatch_up": "plane",
    "process_resident_memory_bytes": "plane",
    "longwatch_camera_frames_total": "camera",
    "longwatch_questions_total": "outcome",
    "longwatch_question_seconds_bucket": "le",
}


class Unavailable(LongwatchError):
    """The API answers, and cannot say how the cameras are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the API said at one time."""

    at_s: float  # of a clock that only goes forward
    series: Series
    streams: Sequence[Mapping[str, Any]]
    trouble: str | None  # why there are no streams


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraLine:
    """One camera. `dropped` and `reconnects` are since it was added, `share` of its rate is sampled, `lag_s` old is its newest carrier."""

    id: str
    phase: str
    share: float
    fps: float | None
    dropped: int
    reconnects: int
    lag_s: float | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How everything does. Of several processes of a plane, `megabytes` is their sum."""

    over_s: float  # what the rates and times are of
    planes: dict[str, bool]
    megabytes: dict[str, float]
    cameras: list[CameraLine]
    questions_a_minute: float
    p50_s: float | None  # None: nothing was answered meanwhile
    p95_s: float | None
    trouble: str | None

    @property
    def well(self) -> bool:
        """Whether nothing is down."""
        silent = any(camera.phase in PHASES_DOWN for camera in self.cameras)
        return not silent and not self.trouble and all(self.planes.values())


def reports(get: Get, every_s: float) -> Iterator[Report]:
    """A report every so often, the rates over the last minute at most. Raises what `get` raises."""
    looks = deque([look(get)])
    while True:
        time.sleep(every_s)
        looks.append(look(get))
        while len(looks) > 2 and looks[-1].at_s - looks[0].at_s > WINDOW_S:
            looks.popleft()
        yield report(looks[0], looks[-1], time.time())


def look(get: Get) -> Look:
    """Ask the API; `get` raises what it raises when nobody answers, and Unavailable when the API cannot say."""
    metrics = get("/metrics").text
    try:
        streams, trouble = get("/v1/streams").json()["streams"], None
    except Unavailable as error:
        streams, trouble = [], str(error)
    return Look(at_s=time.monotonic(), series=_series(metrics), streams=streams, trouble=trouble)


def _series(text: str) -> Series:
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if label := LABEL.get(sample.name):
                key = (sample.name, sample.labels[label])
                found[key] = found.get(key, 0.0) + sample.value
    return found


def report(before: Look, now: Look, now_s: float) -> Report:
    """How everything does, with rates between two looks. `now_s` is UNIX time."""
    over_s = now.at_s - before.at_s
    grown = {key: max(0.0, value - before.series.get(key, 0.0)) for key, value in now.series.items()}
    buckets = sorted((float(le), count) for le, count in _of(grown, "longwatch_question_seconds_bucket").items())
    asked = sum(_of(grown, "longwatch_questions_total").values())
    fps = {camera: frames / over_s for camera, frames in _of(grown, "longwatch_camera_frames_total").items()}
    return Report(
        over_s=over_s,
        planes={plane: up == 1 for plane, up in _of(now.series, "longwatch_up").items()},
        megabytes={plane: size / 1e6 for plane, size in _of(now.series, "process_resident_memory_bytes").items()},
        cameras=[_camera(stream, fps.get(stream["id"]), now_s) for stream in now.streams],
        questions_a_minute=asked / over_s * 60,
        p50_s=quantile(buckets, 0.5),
        p95_s=quantile(buckets, 0.95),
        trouble=now.trouble,
    )


def _of(series: Series, name: str) -> dict[str, float]:
    return {label: value for (each, label), value in series.items() if each == name}


def _camera(stream: Mapping[str, Any], fps: float | None, now_s: float) -> CameraLine:
    kept = stream["remembered"]
    lag_s = max(0.0, now_s - datetime.fromisoformat(kept["end"]).timestamp()) if kept else None
    told = {name: stream[name] for name in ("id", "phase", "share", "dropped", "reconnects", "error")}
    return CameraLine(fps=fps, lag_s=lag_s, **told)


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Below which value a share of a histogram lies, as Prometheus estimates it: evenly within a bucket.

    Buckets are (upper bound, how many are not above it), ascending, the last infinite. What lies there is given its lower bound.
    """
    if not buckets or not buckets[-1][1]:
        return None
    wanted = share * buckets[-1][1]
    for (low, below), (high, reached) in pairwise([(0.0, 0.0), *buckets]):
        if reached >= wanted and reached > below:
            return low if high == float("inf") else low + (high - low) * (wanted - below) / (reached - below)
    return None


def render(told: Report) -> Group:
    """The report for a terminal."""
    cameras = Table("camera", "phase", "frames/s", "dropped", "reconnects", "newest carrier", "error", box=None, padding=(0, 2, 0, 0))
    for line in told.cameras:
        phase = f"[red]{line.phase}[/]" if line.phase in PHASES_DOWN else line.phase
        phase += f" [yellow]at {line.share:.0%}[/]" if line.share < 1 else ""
        numbers = (_shown(line.fps, "{:.1f}"), str(line.dropped), str(line.reconnects), _shown(line.lag_s, "{:.0f} s ago"))
        cameras.add_row(line.id, phase, *numbers, escape(line.error or ""))
    planes = Table("plane", "", "MB", box=None, padding=(0, 2, 0, 0))
    for plane, up in told.planes.items():
        planes.add_row(plane, "[green]up[/]" if up else "[red]down[/]", _shown(told.megabytes.get(plane), "{:.0f}"))
    times = f"p50 {_shown(told.p50_s, '{:.2f} s')}, p95 {_shown(told.p95_s, '{:.2f} s')}"
    questions = f"{told.questions_a_minute:.1f} questions a minute, {times} (over the last {told.over_s:.0f} s)"
    return Group(cameras, "", planes, "", questions, *([f"[red]{escape(told.trouble)}[/]"] if told.trouble else []))


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
