"""What tells a passage that shows what is asked about from all that do not: relevance, a closer look, or both, and how much each counts.

    python -m bench.witnesses [--quick] [--json FILE] [--model FOLDER] [--footage .cache/development]

Sites are watched that neither training nor other benches use: on them it is chosen how an answer weighs the two
(`pipeline.selection.steadied`, `pipeline.answerer.LOOK`). Of every clip of 48 seconds the passage that is likeliest to show a subject is
weighed; a clip shows it for two to ten seconds or not at all. How many of the first are found depends on how many of the others may be
believed: some of 1,800, a day of a camera.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from bench.held_out import SECONDS
from bench.needle import LENGTHS, SUBJECTS, Clip, pool, with_head
from bench.report import console, show, write
from model import embedded
from model.videoscan import VideoScan
from pipeline.answerer import enough, logit
from pipeline.selection import REACH, steadied
from simulator.watching import Subject, article

DEVELOPMENT = 2_400  # first seed
ALIKE = 16  # clips that do not show a subject, the most relevant, that are looked at; none of the others is believed
FALSE = (0.05, 0.2, 0.5)  # of days of a camera without it, those in which something is believed
OUTWEIGHED = enough(LENGTHS["24 hours"] * SECONDS)  # a logit
LOOKS = (0.0, 0.25, 0.5, 1.0)  # how much of the look's logit counts

Reading = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighed:
    """A passage: when its moments are from, what relevance says of each and what the look says, as logits; and the truth."""

    at_ms: NDArray[np.int64]
    logits: NDArray[np.float32]
    look: float
    there: bool


def alone(at_ms: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each moment by itself."""
    return logits


def mean(at_ms: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of a moment and the ones right before and after."""
    near = np.pad(np.ones_like(logits), 1)
    return np.convolve(logits, np.ones(3), "same") / (near[:-2] + near[1:-1] + near[2:])


READINGS: dict[str, Reading] = {"alone": alone, "mean of three": mean, "with the better neighbour": steadied}


def weighed(scan: VideoScan, clips: Sequence[Clip], subject: Subject, r: Random) -> Iterator[Weighed]:
    """The passages of those clips that show a subject shortly, and of those that are taken for it most easily."""
    question = f"Was there {article(subject.words(r))}?"
    sought = scan.sought(question)
    assert sought is not None
    logits = {id(clip): clip.vectors @ sought for clip in clips}
    likely = {id(clip): steadied(clip.at_ms, logits[id(clip)]) for clip in clips}
    others = sorted((clip for clip in clips if not clip.shows(subject)), key=lambda clip: -likely[id(clip)].max())
    events = [clip for clip in clips if clip.shortly(subject)]
    for clip in (*events, *others[:ALIKE]):
        best = int(likely[id(clip)].argmax())
        part = slice(max(0, best - REACH), best + REACH + 1)
        [share] = scan.shown(question, [clip.carriers[part]])
        yield Weighed(at_ms=clip.at_ms[part], logits=logits[id(clip)][part], look=logit(share), there=clip.shows(subject))


def row(some: Sequence[Weighed], days: float, name: str, reading: Reading, look: float) -> list[object]:
    """How passages are read and weighed, and the share of events that is found.

    First by how often something may be believed falsely (FALSE), then by the product's own bound, with how many it believes falsely a day.
    """
    told = np.array([reading(each.at_ms, each.logits).max() + look * each.look for each in some])
    there = np.array([each.there for each in some])
    falsely = np.sort(told[~there])[::-1]
    bounds = [falsely[min(len(falsely) - 1, round(share * days))] for share in FALSE]
    found = [float((told[there] > bound).mean()) for bound in (*bounds, OUTWEIGHED)]
    return [name, look, *found, float((falsely > OUTWEIGHED).sum() / days)]


def main(
    model: Path = embedded.FOLDER,
    sites: int = 300,
    footage: Annotated[Path | None, typer.Option(help="Keep films here, and find them again.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer sites.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print what is found by each way to weigh."""
    scan = with_head(model)
    clips, r = pool(scan, 8 if quick else sites, DEVELOPMENT, footage), Random("witnesses")
    some = [each for subject in track(SUBJECTS, "looking", console=console) for each in weighed(scan, clips, subject, r)]
    days = sum(not clip.shows(subject) for clip in clips for subject in SUBJECTS) / LENGTHS["24 hours"]
    rows = [row(some, days, name, reading, look) for name, reading in READINGS.items() for look in LOOKS]
    columns = ("a moment is read", "look counts", *(f"found at {share:.0%} false" for share in FALSE), "found by n to 1", "false a day")
    events = sum(each.there for each in some)
    show("Events of seconds, believed", columns, rows, [f"{events} events, {days:.0f} days without the subject, model {scan.fingerprint}"])
    write(json_file, {"witnesses": [dict(zip(columns, each, strict=True)) for each in rows]})


if __name__ == "__main__":
    typer.run(main)
