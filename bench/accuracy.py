"""How often the model is right, by kind of question, on simulated sites that no model was trained on.

    python -m bench.accuracy [--quick] [--json FILE] [--model FOLDER] [--system 60]
    python -m bench.accuracy --rows [--base FOLDER] [--alone FOLDER] [--other FOLDER]... [--budget 192] [--quick] [--json FILE]

Films held-out sites through H.264, streams them through the bounded live memory as serving does, and asks. Beside it, on the
same questions: the most frequent answer of each family, and the same model looking at another site's carriers, which
shows whether it looks at all. `--system N` also asks N questions through the whole system, from RTSP to the HTTP answer.
`--rows` asks instead about frames remembered in other ways (bench.ways); for some of them it takes models of model.dense_training
(`--base`) and of model.training (`--alone`, `--other`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import torch
import typer
from rich.progress import track

from bench.held_out import FIRST, frames, questions, rightly
from bench.report import console, show, write
from bench.ways import Beside, rows
from model import embedded
from model.backbone import Backbone
from model.videoscan import Decoded, VideoScan
from pipeline.core import Carrier, Frame
from pipeline.grounding import WHEN, moments, pointed
from simulator.marking import WHEN_TOLERANCE_S, truth_words
from simulator.questions import Quiz
from simulator.visits import CAMERAS
from simulator.watching import Watch


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
    hit: bool | None  # whether the moment that drew most attention shows the answer; None where nothing shows it


def remember(scan: VideoScan, film: Sequence[Sequence[Frame]]) -> dict[str, list[Carrier]]:
    """Watch a site with all cameras in one batch, and keep every carrier."""
    memories = [scan.memory() for _ in CAMERAS]
    kept: dict[str, list[Carrier]] = {camera: [] for camera in CAMERAS}
    for frames_at_once in film:
        for memory, carrier in zip(memories, scan.prefill(frames_at_once, memories), strict=True):
            memory.add(carrier)
            kept[carrier.key.camera_id].append(carrier)
    return kept


def quizzes(scan: VideoScan, seed: int, r: Random) -> Iterator[Asked]:
    """Questions about one site, over its carriers and another site's."""
    films = [frames(each, scan.backbone.vision.image_size) for each in (seed, seed + 50_000)]
    own, other = (remember(scan, film) for film in films)
    for question in questions(seed, films[0], scan.budget, r):
        carriers, foreign = ([kept[camera][second] for camera, second in question.places] for kept in (own, other))
        foreign.sort(key=lambda c: (c.key.at_ms, c.key.camera_id))
        yield Asked(quiz=question.quiz, watch=question.watch, carriers=carriers, foreign=foreign)


def mark(scan: VideoScan, asked: Asked) -> Mark:
    """Ask both ways and mark both."""
    now = asked.watch.shots[-1].at
    pointing = asked.quiz.answer == WHEN
    decoded = scan.decode(asked.quiz.text, asked.carriers)
    return Mark(
        family=asked.quiz.family,
        truth=truth_words(asked.quiz, asked.watch, now),
        ago_s=now - asked.watch.shots[asked.quiz.evidence[-1]].at if pointing else None,
        right=rightly(asked.quiz, asked.watch, decoded, [c.key for c in asked.carriers]),
        foreign=right(scan, asked, asked.foreign),
        hit=hit(asked, decoded),
    )


def hit(asked: Asked, decoded: Decoded) -> bool | None:
    """Whether the first moment shown with an answer holds one of those that show it truly; None where there is none to show."""
    shots = [asked.watch.shots[i] for i in asked.quiz.evidence]
    found = pointed(decoded.text, moments([c.key for c in asked.carriers], decoded.attention))[:1]
    return any(shot.camera == e.camera_id and round(shot.at * 1000) in e.span for shot in shots for e in found) if shots else None


def right(scan: VideoScan, asked: Asked, carriers: Sequence[Carrier], later_s: float = 0) -> bool:
    """Whether the model answers the question correctly from these carriers, which are dated `later_s` later than what was watched."""
    decoded = scan.decode(asked.quiz.text, carriers)
    return rightly(asked.quiz, asked.watch, decoded, [c.key for c in carriers], later_s)


def most_frequent(marks: Sequence[Mark]) -> int:
    """How many the best constant answer of one family gets right."""
    agos = [m.ago_s for m in marks if m.ago_s is not None]
    timed = max((sum(abs(a - b) <= WHEN_TOLERANCE_S for b in agos) for a in agos), default=0)
    return max(timed, Counter(m.truth for m in marks if m.ago_s is None).most_common(1)[0][1] if len(agos) < len(marks) else 0)


def table(marks: Sequence[Mark]) -> list[list[object]]:
    """Rows: family, questions, right, most frequent answer, other site's carriers, evidence that hits; the last is all together."""
    families: defaultdict[str, list[Mark]] = defaultdict(list)
    for m in marks:
        families[m.family].append(m)
    return [_row(family, some) for family, some in [*sorted(families.items()), ("all", marks)]]


def _row(family: str, some: Sequence[Mark]) -> list[object]:
    frequent = sum(most_frequent([m for m in some if m.family == each]) for each in {m.family for m in some})
    hits = [m.hit for m in some if m.hit is not None]
    shares = [sum(scores) / len(some) for scores in ([m.right for m in some], [frequent], [m.foreign for m in some])]
    return [family, len(some), *shares, sum(hits) / len(hits) if hits else ""]


def main(
    model: Path = embedded.FOLDER,
    sites: int = 12,
    quick: Annotated[bool, typer.Option(help="A tenth of it.")] = False,
    system: Annotated[int, typer.Option(help="Also ask so many questions through the whole system.")] = 0,
    compared: Annotated[bool, typer.Option("--rows", help="Compare ways to remember frames, and nothing else.")] = False,
    base: Annotated[Path | None, typer.Option(help="For --rows: the same architecture taught on whole frames.")] = None,
    alone: Annotated[Path | None, typer.Option(help="For --rows: the same, taught by `model.training --alone`.")] = None,
    others: Annotated[list[Path] | None, typer.Option("--other", help="For --rows: the same, taught otherwise; may be repeated.")] = None,
    budget: Annotated[int | None, typer.Option(help="For --rows: carriers a question, at most; as the model has it if not given.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print accuracy by family beside its baselines."""
    torch.set_num_threads(2)
    seeds = track(range(FIRST, FIRST + (2 if quick else sites)), description="asking", console=console)
    if compared:
        told = rows(model, Beside(base=base, alone=alone, others=others or ()), seeds, budget)
        note = f"{model}, and {base} where it says dense base; tokens and bytes (16 bits a number) are those kept of a frame"
        show("The same questions, frames remembered in other ways", tuple(told[0]), [tuple(row.values()) for row in told], [note])
        write(json_file, {"rows": told})
        return
    scan = VideoScan(Backbone.load(model))
    r = Random("bench accuracy")
    marks = [mark(scan, asked) for seed in seeds for asked in quizzes(scan, seed, r)]
    columns = ("family", "questions", "right", "most frequent answer", "another site's carriers", "evidence that shows it")
    families = table(marks)
    show("Accuracy on held-out simulated sites, in process", columns, families, [f"model {scan.fingerprint}, {model}"])
    result = {"in_process": [dict(zip(columns, row, strict=True)) for row in families]}
    if system:
        from bench.through_system import through_system

        asked = through_system(system)
        show("Through the whole system: RTSP to HTTP answer", columns[:3], asked)
        result["through_system"] = [dict(zip(columns, row, strict=False)) for row in asked]
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
