"""What the gate for still pictures saves, and whether it ever misses something.

    python -m bench.stillness [--quick] [--json FILE] [--footage FOLDER]

Simulated sites through H.264, where the truth of every picture is known: an event is a passage of somebody or something that covers
1 % of a camera's picture for at least a second; it is missed when no picture of it is passed on. And real clips with events.json.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from bench.report import console, show, write
from pipeline.camera import GstSource
from pipeline.core import STILL_S, Camera, Frame
from pipeline.stillness import StillGate
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


def simulated(seed: int, camera: str, traffic: float | None, seconds: int) -> tuple[int, int, int]:
    """Pictures passed on, events, and events missed, of one camera."""
    r = Random(f"stillness {seed} {camera}")
    site, start = Site(seed, traffic=traffic), r.uniform(0, 86_400)
    at = [start + s for s in range(seconds)]
    gate = StillGate(STILL_S)
    passed = set()
    for t, picture in zip(at, through_h264((render(site, camera, t) for t in at), quantizer=r.randint(20, 32)), strict=True):
        if gate.passes(Frame(camera_id=camera, pts_ns=0, captured_ms=round(t * 1000), image=picture)):
            passed.add(t)
    shown: dict[str, list[float]] = {}
    for t in at:
        for s in site.sightings(camera, t):
            if area(s) >= SMALL:
                shown.setdefault(s.id, []).append(t)
    events = [times for times in shown.values() if times[-1] - times[0] >= SHORT_S]
    return len(passed), len(events), sum(not passed.intersection(times) for times in events)


def real(video: Path) -> tuple[list[float], list[float]]:
    """Seconds of the pictures of a clip at one a second, and of those that are passed on."""
    source = GstSource(Camera(id="clip", uri=str(video), fps=1.0))
    gate = StillGate(STILL_S)
    frames = list(source.frames())
    return [f.pts_ns / 1e9 for f in frames], [f.pts_ns / 1e9 for f in frames if gate.passes(f)]


def rows_of_sites(sites: int, seconds: int) -> Iterator[list[object]]:
    """One row for each kind of traffic."""
    for name, traffic in (("no traffic", 0.0), ("as in the demo", None)):
        jobs = [(HELD_OUT + i, camera) for i in range(sites) for camera in CAMERAS]
        figures = [simulated(seed, camera, traffic, seconds) for seed, camera in track(jobs, description=name, console=console)]
        passed, events, missed = (sum(column) for column in zip(*figures, strict=True))
        yield [f"simulated, {name}", len(jobs) * seconds, passed, passed / (len(jobs) * seconds), events, missed]


def row_of_clip(video: Path, told: dict[str, list[dict[str, object]]]) -> list[object]:
    """One row for a real clip: an event is missed when none of its pictures is passed on."""
    at, passed = real(video)
    spans = [np.array(e.get("t") or (e["start"], e["end"]), float) for e in told["events"]]
    within = [[t for t in at if start <= t <= end] for start, end in spans]
    missed = sum(bool(times) and not set(times) & set(passed) for times in within)
    return [video.name, len(at), len(passed), len(passed) / len(at), len(spans), missed]


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
        rows += [row_of_clip(footage / name, each) for name, each in told.items() if isinstance(each, dict)]
    columns = ("pictures", "at 1 a second", "passed on", "share", "events", "missed")
    show("The gate for still pictures", columns, rows)
    write(json_file, {"stillness": [dict(zip(columns, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    typer.run(main)
