"""How often the model is right, by kind of question, on simulated sites that no model was trained on.

    python -m bench.accuracy [--quick] [--json FILE] [--model FOLDER] [--system 60]

Films held-out sites through H.264, streams them through the bounded live memory as serving does, and asks. Beside it, on the
same questions: the most frequent answer of each family, and the same model looking at another site's carriers, which
shows whether it looks at all. `--system N` also asks N questions through the whole system, from RTSP to the HTTP answer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import track

from bench.report import console, show, write
from model import embedded
from model.backbone import Backbone
from model.footage import film
from model.videoscan import VideoScan
from pipeline.core import Carrier, Frame
from pipeline.grounding import WHEN, ground, moments, pointed
from pipeline.selection import Candidates, select
from simulator.marking import WHEN_TOLERANCE_S, correct, truth_words
from simulator.questions import FAMILIES, Quiz, ask
from simulator.visits import CAMERAS
from simulator.watching import Watch, watch_at
from simulator.world import Site

HELD_OUT = 910_000  # first seed of the bench's sites; the demo and the tests have their own
SECONDS = 48


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A question, its truth, and what may be looked at to answer it."""

    quiz: Quiz
    watch: Watch
    carriers: list[Carrier]  # of the site asked about
    foreign: list[Carrier]  # of another site, same cameras and seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A question's family, its true answer, and whether each contender had it right."""

    family: str
    truth: str
    ago_s: float | None  # of a `<when>` question
    right: bool
    foreign: bool


def remember(scan: VideoScan, seed: int) -> dict[str, list[Carrier]]:
    """Watch a held-out site with all cameras in one batch, and keep every carrier."""
    pictures, times = film(seed, SECONDS, scan.backbone.vision.image_size)
    memories = [scan.memory() for _ in CAMERAS]
    kept: dict[str, list[Carrier]] = {camera: [] for camera in CAMERAS}
    for second in range(SECONDS):
        frames = [
            Frame(camera_id=camera, pts_ns=second, captured_ms=round(times[i, second] * 1000), image=pictures[i, second])
            for i, camera in enumerate(CAMERAS)
        ]
        for memory, carrier in zip(memories, scan.prefill(frames, memories), strict=True):
            memory.add(carrier)
            kept[carrier.key.camera_id].append(carrier)
    return kept


def quizzes(scan: VideoScan, seed: int, r: Random) -> Iterator[Asked]:
    """Questions about one site: each camera alone, and several together."""
    own, other = remember(scan, seed), remember(scan, seed + 50_000)
    groups = [[camera] for camera in CAMERAS] + [r.sample(CAMERAS, n) for n in (2, 3, 4, 4)]
    for cameras in groups:
        seconds = r.choice((24, 36, 48))
        first = r.randrange(SECONDS - seconds + 1)
        window = {camera: range(first, first + seconds) for camera in cameras}
        times = {camera: [own[camera][s].key.at_ms for s in window[camera]] for camera in cameras}
        chosen = select({camera: Candidates(at_ms=np.array(each, np.int64)) for camera, each in times.items()}, scan.budget)
        index = {(k.camera_id, k.at_ms): first + times[k.camera_id].index(k.at_ms) for k in chosen}
        carriers = [own[k.camera_id][index[k.camera_id, k.at_ms]] for k in chosen]
        foreign = [other[k.camera_id][index[k.camera_id, k.at_ms]] for k in chosen]
        foreign.sort(key=lambda c: (c.key.at_ms, c.key.camera_id))
        truth = watch_at(Site(seed), {c: [k.at_ms / 1000 for k in chosen if k.camera_id == c] for c in cameras})
        for family in FAMILIES:
            if quiz := ask(truth, r, family):
                yield Asked(quiz=quiz, watch=truth, carriers=carriers, foreign=foreign)


def mark(scan: VideoScan, asked: Asked) -> Mark:
    """Ask both ways and mark both."""
    now = asked.watch.shots[-1].at
    pointing = asked.quiz.answer == WHEN
    return Mark(
        family=asked.quiz.family,
        truth=truth_words(asked.quiz, asked.watch, now),
        ago_s=now - asked.watch.shots[asked.quiz.evidence[-1]].at if pointing else None,
        right=right(scan, asked, asked.carriers),
        foreign=right(scan, asked, asked.foreign),
    )


def right(scan: VideoScan, asked: Asked, carriers: Sequence[Carrier], later_s: float = 0) -> bool:
    """Whether the model answers the question correctly from these carriers, which are dated `later_s` later than what was watched."""
    decoded = scan.decode(asked.quiz.text, carriers)
    evidence = pointed(decoded.text, moments([c.key for c in carriers], decoded.attention))
    text = ground(decoded.text, evidence, carriers[-1].key.at_ms)
    best = evidence[0] if evidence else None
    at = best.at_ms / 1000 - later_s if best else None
    return correct(asked.quiz, asked.watch, text=text, camera=best.camera_id if best else None, at=at)


def most_frequent(marks: Sequence[Mark]) -> int:
    """How many the best constant answer of one family gets right."""
    agos = [m.ago_s for m in marks if m.ago_s is not None]
    timed = max((sum(abs(a - b) <= WHEN_TOLERANCE_S for b in agos) for a in agos), default=0)
    return max(timed, Counter(m.truth for m in marks if m.ago_s is None).most_common(1)[0][1] if len(agos) < len(marks) else 0)


def table(marks: Sequence[Mark]) -> list[list[object]]:
    """Rows: family, questions, right, most frequent answer, other site's carriers; the last is all together."""
    families: defaultdict[str, list[Mark]] = defaultdict(list)
    for m in marks:
        families[m.family].append(m)
    rows: list[list[object]] = []
    totals = [0, 0, 0]
    for family, some in sorted(families.items()):
        scores = [sum(m.right for m in some), most_frequent(some), sum(m.foreign for m in some)]
        totals = [a + b for a, b in zip(totals, scores, strict=True)]
        rows.append([family, len(some), *(s / len(some) for s in scores)])
    return [*rows, ["all", len(marks), *(t / len(marks) for t in totals)]]


def main(
    model: Path = embedded.FOLDER,
    sites: int = 12,
    quick: Annotated[bool, typer.Option(help="A tenth of it.")] = False,
    system: Annotated[int, typer.Option(help="Also ask so many questions through the whole system.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print accuracy by family beside its baselines."""
    torch.set_num_threads(2)
    scan = VideoScan(Backbone.load(model))
    r = Random("bench accuracy")
    marks = [
        mark(scan, asked)
        for seed in track(range(HELD_OUT, HELD_OUT + (2 if quick else sites)), description="asking", console=console)
        for asked in quizzes(scan, seed, r)
    ]
    columns = ("family", "questions", "right", "most frequent answer", "another site's carriers")
    rows = table(marks)
    show("Accuracy on held-out simulated sites, in process", columns, rows, [f"model {scan.fingerprint}, {model}"])
    result = {"in_process": [dict(zip(columns, row, strict=True)) for row in rows]}
    if system:
        from bench.through_system import through_system

        rows = through_system(system)
        show("Through the whole system: RTSP to HTTP answer", columns[:3], rows)
        result["through_system"] = [dict(zip(columns, row, strict=False)) for row in rows]
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
