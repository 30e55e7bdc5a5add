"""Questions about a still time in which one thing happened, over what gate and repeats keep of it and over every second of it.

    python -m bench.still_questions [--quick] [--json FILE] [--model FOLDER]

Ten minutes of a simulated camera, filmed at 640 x 360 through H.264, in which one visitor passes and nothing else. The same questions
(was it there, when, and about what was never there) are asked twice, of carriers that are chosen as the product chooses them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.progress import track

from bench.accuracy import Asked, right
from bench.looking import looked_at
from bench.report import console, show, write
from model import embedded, relevance
from model.backbone import Backbone
from model.videoscan import VideoScan
from pipeline.core import STILL_S, Carrier, Frame, TimeRange
from pipeline.prefiller import REPEAT_MS
from pipeline.stillness import StillGate, Unchanged
from simulator.codec import through_h264
from simulator.questions import Quiz, ask, presence, presence_now, when
from simulator.render import render
from simulator.visits import CAMERAS
from simulator.watching import Watch, watch_at
from simulator.world import Site

SEEDS = 990_000  # held out
TRAFFIC = 0.01  # so little that most times are still
SECONDS = 600
MARGIN_S = 60  # at either end, in which nothing is to be seen
FAMILIES = (presence, presence, when, when, presence_now)
EACH = 10  # questions about one time


def still_times(r: Random) -> Iterator[tuple[Site, str, list[float]]]:
    """A site, a camera and the seconds in which exactly one thing is to be seen there, somewhere in the middle."""
    for seed in range(SEEDS, SEEDS + 10_000):
        site, camera = Site(seed, traffic=TRAFFIC), r.choice(CAMERAS)
        for start in range(0, 36_000, SECONDS):
            at = [start + float(s) for s in range(SECONDS)]
            entered = [event for event in site.events(start, start + SECONDS) if event.camera == camera]
            if len({event.id for event in entered}) != 1:
                continue
            if not any(site.sightings(camera, t) for t in at[:: SECONDS - 1]) and _lone(watch_at(site, {camera: at})):
                yield site, camera, at
                break


def _lone(watch: Watch) -> bool:
    """Whether there is one thing, plainly to be seen, and well within."""
    ids = {sighting.id for shot in watch.shots for sighting in shot.sightings}
    seen = [i for i, shot in enumerate(watch.shots) if shot.sightings]
    return len(ids) == 1 and bool(watch.present()) and seen[0] >= MARGIN_S and seen[-1] < SECONDS - MARGIN_S


def filmed(site: Site, camera: str, at: Sequence[float]) -> list[Frame]:
    """The pictures as a camera gives them."""
    pictures = through_h264((render(site, camera, t) for t in at), quantizer=26)
    return [Frame(camera_id=camera, pts_ns=0, captured_ms=round(t * 1000), image=picture) for t, picture in zip(at, pictures, strict=True)]


def every_second(scan: VideoScan, frames: Sequence[Frame]) -> list[Carrier]:
    """A carrier for each picture."""
    memory, kept = scan.memory(), list[Carrier]()
    for frame in frames:
        [carrier] = scan.prefill([frame], [memory])
        memory.add(carrier)
        kept.append(carrier)
    return kept


def sparingly(scan: VideoScan, frames: Sequence[Frame]) -> tuple[list[Carrier], int]:
    """What the product keeps, as it is read: those that repeat have the numbers of the first. And how many are kept whole."""
    gate, unchanged, memory = StillGate(STILL_S), Unchanged(REPEAT_MS), scan.memory()
    kept: dict[int, Carrier] = {}
    whole = 0
    for frame in frames:
        if not gate.passes(frame):
            continue
        of_ms = unchanged.since(frame)
        if of_ms is None:
            [carrier] = scan.prefill([frame], [memory])
            memory.add(carrier)
            whole += 1
        else:
            key = replace(kept[of_ms].key, at_ms=frame.captured_ms)
            carrier = replace(kept[of_ms], key=key, span=TimeRange(start_ms=of_ms, end_ms=frame.captured_ms))
        kept[frame.captured_ms] = carrier
    return list(kept.values()), whole


def answered(scan: VideoScan, quiz: Quiz, watch: Watch, carriers: Sequence[Carrier]) -> bool:
    """Whether the answer is right over those of the carriers that the product would look at."""
    seen = looked_at(scan, quiz.text, carriers)
    return right(scan, Asked(quiz=quiz, watch=watch, carriers=seen, foreign=[]), seen)


def main(
    model: Path = embedded.FOLDER,
    times: int = 20,
    quick: Annotated[bool, typer.Option(help="Two still times.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print how many questions are answered right in either way."""
    backbone = Backbone.load(model)
    scan = VideoScan(backbone, relevance=relevance.load(backbone, model))
    r = Random("still questions")
    marks: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    kept, whole, pictures = 0, 0, 0
    for _, (site, camera, at) in zip(track(range(2 if quick else times), console=console), still_times(r), strict=False):
        frames = filmed(site, camera, at)
        watch, full, (few, own) = watch_at(site, {camera: at}), every_second(scan, frames), sparingly(scan, frames)
        kept, whole, pictures = kept + len(few), whole + own, pictures + len(frames)
        for family in FAMILIES * (EACH // len(FAMILIES)):
            if quiz := ask(watch, r, family):
                marks[quiz.family].append((answered(scan, quiz, watch, full), answered(scan, quiz, watch, few)))
    every = [each for some in marks.values() for each in some]
    columns = ("family", "questions", "right, every second kept", "right, gate and repeats")
    rows: list[list[object]] = [
        [name, len(some), sum(full for full, _ in some), sum(few for _, few in some)]
        for name, some in [*sorted(marks.items()), ("all", every)]
    ]
    notes = [f"{pictures} pictures, {kept} kept with gate and repeats, {whole} of them whole", f"model {scan.fingerprint}"]
    show("Questions about still times in which one thing happened", columns, rows, notes)
    write(json_file, {"still_questions": [dict(zip(columns, row, strict=True)) for row in rows], "notes": notes})


if __name__ == "__main__":
    typer.run(main)
