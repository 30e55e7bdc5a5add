"""What the gate for still pictures and repeats save, and whether they ever miss something.

    python -m bench.stillness [--quick] [--json FILE] [--footage FOLDER]

Simulated sites through H.264, where the truth of every picture is known: an event is a passage of somebody or something that covers
1 % of a camera's picture for at least a second. The gate misses it when no picture of it is passed on, and gate and repeats together
when none is kept whole: a repeat shows an earlier picture. And real clips with events.json. For answers see bench.still_questions.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from bench.report import console, show, write
from pipeline.camera import GstSource
from pipeline.core import STILL_S, Camera, Frame
from pipeline.prefiller import REPEAT_MS
from pipeline.stillness import StillGate, Unchanged
from simulator.codec import through_h264
from simulator.render import render
from simulator.visits import CAMERAS, HEIGHT, WIDTH
from simulator.world import Sighting, Site

HELD_OUT = 970_000
SECONDS = 180
SMALL, SHORT_S = 0.01, 1.0


def area(s: Sighting) -> float:
    """The share of the picture that is to be seen of it."""
    left, top, right, bottom = s.box
    across, down = min(right, WIDTH) - max(left, 0), min(bottom, HEIGHT) - max(top, 0)
    return max(0.0, across) * max(0.0, down) / (WIDTH * HEIGHT) * s.visible


@dataclass(slots=True, kw_only=True)
class Sieve:
    """The gate and, behind it, the prefiller's search for repeats, of one camera."""

    gate: StillGate = field(default_factory=lambda: StillGate(STILL_S))
    unchanged: Unchanged = field(default_factory=lambda: Unchanged(REPEAT_MS))
    passed: set[float] = field(default_factory=set)
    whole: set[float] = field(default_factory=set)

    def take(self, frame: Frame, t: float) -> None:
        """The picture of time `t`."""
        if self.gate.passes(frame):
            self.passed.add(t)
            if self.unchanged.since(frame) is None:
                self.whole.add(t)

    def missed(self, events: Sequence[Sequence[float]]) -> tuple[int, int]:
        """Of events, each the times of its pictures, those that the gate misses, and those that gate and repeats miss together."""
        return sum(not self.passed.intersection(times) for times in events), sum(not self.whole.intersection(times) for times in events)


Figures = tuple[int, int, int, int, int, int]  # pictures, passed on, kept whole, events, missed by the gate, by both


def simulated(seed: int, camera: str, traffic: float | None, seconds: int) -> Figures:
    """Of one camera of a simulated site."""
    r = Random(f"stillness {seed} {camera}")
    site, start = Site(seed, traffic=traffic), r.uniform(0, 86_400)
    at = [start + s for s in range(seconds)]
    sieve = Sieve()
    for t, picture in zip(at, through_h264((render(site, camera, t) for t in at), quantizer=r.randint(20, 32)), strict=True):
        sieve.take(Frame(camera_id=camera, pts_ns=0, captured_ms=round(t * 1000), image=picture), t)
    shown: dict[str, list[float]] = {}
    for t in at:
        for s in site.sightings(camera, t):
            if area(s) >= SMALL:
                shown.setdefault(s.id, []).append(t)
    events = [times for times in shown.values() if times[-1] - times[0] >= SHORT_S]
    return len(at), len(sieve.passed), len(sieve.whole), len(events), *sieve.missed(events)


def real(video: Path, told: dict[str, list[dict[str, object]]]) -> Figures:
    """Of a real clip, at one picture a second."""
    sieve, at = Sieve(), list[float]()
    for frame in GstSource(Camera(id="clip", uri=str(video), fps=1.0), in_time=False).frames():
        at.append(frame.pts_ns / 1e9)
        sieve.take(replace(frame, captured_ms=frame.pts_ns // 1_000_000), at[-1])
    spans = [np.array(e.get("t") or (e["start"], e["end"]), float) for e in told["events"]]
    within = [[t for t in at if start <= t <= end] for start, end in spans]
    return len(at), len(sieve.passed), len(sieve.whole), len(spans), *sieve.missed([times for times in within if times])


def row(name: str, figures: Figures) -> list[object]:
    """With shares: held back of all pictures, repeated of those passed on."""
    pictures, passed, whole, events, by_gate, by_both = figures
    return [name, pictures, passed, 1 - passed / pictures, whole, 1 - whole / passed, events, by_gate, by_both]


def rows_of_sites(sites: int, seconds: int) -> Iterator[list[object]]:
    """One row for each kind of traffic."""
    for name, traffic in (("no traffic", 0.0), ("as in the demo", None)):
        jobs = [(HELD_OUT + i, camera) for i in range(sites) for camera in CAMERAS]
        figures = [simulated(seed, camera, traffic, seconds) for seed, camera in track(jobs, description=name, console=console)]
        yield row(f"simulated, {name}", tuple(sum(column) for column in zip(*figures, strict=True)))


def main(
    sites: int = 6,
    quick: Annotated[bool, typer.Option(help="A sixth of it.")] = False,
    footage: Annotated[Path | None, typer.Option(help="Folder with real clips and events.json.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print what is passed on, and what is missed."""
    rows = list(rows_of_sites(1 if quick else sites, SECONDS))
    if footage:
        told = json.loads((footage / "events.json").read_text())
        rows += [row(name, real(footage / name, each)) for name, each in told.items() if isinstance(each, dict)]
    columns = ("pictures", "at 1 a second", "passed on", "held back", "whole", "repeated", "events", "missed by the gate", "and repeats")
    show("The gate for still pictures, and repeats", columns, rows)
    write(json_file, {"stillness": [dict(zip(columns, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    typer.run(main)
