"""Needle in a stream: one short event among hours of cameras, found and answered from the few carriers that an answer looks at.

    python -m bench.needle [--quick] [--json FILE] [--model FOLDER] [--footage .cache/held_out]

Held-out sites are filmed and remembered once, which takes most of the time (films in `--footage` are found again); a stream of any
length is their clips of 48 seconds in random order, all that show the subject left out but one, which shows it for at most ten seconds.
Half of the questions are about a subject that was never there. Five hundred sites are about a day of one camera; what is longer repeats
clips, which is easier.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track

from bench.accuracy import Asked, remember, right
from bench.held_out import SECONDS, frames
from bench.looking import Remembered, vectors
from bench.report import console, show, write
from model import embedded, relevance
from model.backbone import Backbone
from model.footage import main as film_sites
from model.videoscan import VideoScan
from pipeline.core import Carrier, CarrierKey
from pipeline.selection import Candidates, select
from simulator.questions import Quiz, ask, direction, presence, when
from simulator.visits import CAMERAS, COLOURS, MOVERS
from simulator.watching import HINT, Subject, Watch, watch_at
from simulator.world import Site

HELD_OUT = 950_000
LENGTHS = {"48 s": 1, "1 hour": 75, "24 hours": 1_800, "7 days": 12_600}  # in clips
EVENT_S = 10
BUDGET = 64
CLIP_MS = SECONDS * 1000
FAMILIES = (presence, when, direction)
SUBJECTS = [Subject(kind, colour) for kind in MOVERS for colour in COLOURS]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """What one camera remembers of 48 seconds, and the truth."""

    at_ms: NDArray[np.int64]  # from its beginning
    carriers: list[Carrier]
    vectors: NDArray[np.float32]
    truth: Watch

    def shows(self, subject: Subject) -> bool:
        """Whether any of it is to be seen."""
        return any(subject.matches(s) and s.visible >= HINT for shot in self.truth.shots for s in shot.sightings)

    def shortly(self, subject: Subject) -> bool:
        """Whether it is there for seconds, beyond doubt."""
        return 2 <= len(self.truth.clear(subject)) <= EVENT_S and self.truth.known(subject)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Needle:
    """A subject, the clip that shows it (None: nothing does), and those that do not."""

    subject: Subject
    clip: Clip | None
    hay: list[Clip]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How one question went."""

    recall: list[float]  # of the event's carriers, if there is one: in passages read closer, looked at in the end, and if evenly spread
    right: bool
    select_ms: float


def with_head(model: Path) -> VideoScan:
    """A model that can tell what is relevant, on one thread as in the product, where Ray sees to it. Raises BadParameter for any other."""
    torch.set_num_threads(1)
    backbone = Backbone.load(model)
    scan = VideoScan(backbone, relevance=relevance.load(backbone, model))
    if scan.head is None:
        raise typer.BadParameter(f"{model} has no {relevance.FILE}; see python -m model.train_relevance --help")
    return scan


def pool(scan: VideoScan, sites: int, first: int = HELD_OUT, footage: Path | None = None) -> list[Clip]:
    """Every camera of some held-out sites; their films are kept in a folder of footage, where one is given."""
    clips, side = [], scan.backbone.vision.image_size
    if footage:
        film_sites(footage, sites, SECONDS, side, first=first)
    for seed in track(range(first, first + sites), description="watching", console=console):
        for camera, carriers in remember(scan, frames(seed, side, footage)).items():
            truth = watch_at(Site(seed), {camera: [c.key.at_ms / 1000 for c in carriers]})
            at_ms = np.array([c.key.at_ms - carriers[0].key.at_ms for c in carriers], np.int64)
            clips.append(Clip(at_ms=at_ms, carriers=_compact(carriers), vectors=vectors(carriers), truth=truth))
    return clips


def _compact(carriers: Sequence[Carrier]) -> list[Carrier]:
    """The same in few large arrays: small ones that stay keep pages of what comes and goes around them, fifty times their size."""
    embeddings, kv = np.stack([c.embedding for c in carriers]), np.stack([c.kv for c in carriers])
    return [replace(c, embedding=e, kv=k, vector=None) for c, e, k in zip(carriers, embeddings, kv, strict=True)]


def needles(clips: Sequence[Clip], r: Random) -> Iterator[Needle]:
    """One subject after the other, by turns there for a few seconds and nowhere."""
    while True:
        subject = r.choice(SUBJECTS)
        hay = [clip for clip in clips if not clip.shows(subject)]
        brief = [clip for clip in clips if clip.shortly(subject)]
        if hay and brief:
            yield Needle(subject=subject, clip=r.choice(brief), hay=hay)
            yield Needle(subject=subject, clip=None, hay=hay)


def ask_about(needle: Needle, r: Random) -> Quiz:
    """A question about the needle alone."""
    watched = needle.clip or needle.hay[0]
    while True:
        quiz = ask(watched.truth, r, r.choice(FAMILIES))
        if quiz and quiz.about == (needle.subject,) and not any(name in quiz.text for name in CAMERAS):
            return quiz


def search(scan: VideoScan, needle: Needle, cameras: int, length: int, r: Random) -> Found:
    """Lay the stream out, choose what to look at, ask, and mark."""
    quiz = ask_about(needle, r)
    streams = [_stream(needle.hay, length, r) for _ in range(cameras)]
    hidden = r.randrange(length)
    if needle.clip:
        streams[0][hidden] = needle.clip
    vectors = {f"c{i}": np.concatenate([clip.vectors for clip in stream]) for i, stream in enumerate(streams)}
    times = {f"c{i}": np.concatenate([n * CLIP_MS + clip.at_ms for n, clip in enumerate(stream)]) for i, stream in enumerate(streams)}
    closer: list[CarrierKey] = []

    def read(key: CarrierKey) -> Carrier:
        closer.append(key)
        return _carrier(streams, key)

    memory = Remembered(times=times, scored=vectors, carrier=read)
    began = time.perf_counter()
    keys = memory.wanted(scan, quiz.text, BUDGET)
    took = (time.perf_counter() - began) * 1000
    carriers = [_carrier(streams, key) for key in keys]
    seen = needle.clip.truth.clear(needle.subject) if needle.clip else []
    event = [CarrierKey(camera_id="c0", at_ms=int(times["c0"][hidden * SECONDS + i])) for i in seen]
    even = select({name: Candidates(at_ms=each) for name, each in times.items()}, BUDGET)
    watch = (needle.clip or needle.hay[0]).truth
    asked = Asked(quiz=quiz, watch=watch, carriers=carriers, foreign=[])
    answered = right(scan, asked, carriers, hidden * CLIP_MS / 1000 - watch.shots[0].at)
    recall = [sum(key in some for key in event) / len(event) for some in (closer or keys, keys, even) if event]
    return Found(recall=recall, right=answered, select_ms=took)


def _stream(hay: Sequence[Clip], length: int, r: Random) -> list[Clip]:
    """Clips in random order, none a second time before all were there once."""
    rounds = (r.sample(hay, len(hay)) for _ in range(0, length, len(hay)))
    return [clip for each in rounds for clip in each][:length]


def _carrier(streams: Sequence[Sequence[Clip]], key: CarrierKey) -> Carrier:
    clip = streams[int(key.camera_id[1:])][key.at_ms // CLIP_MS]
    return replace(clip.carriers[int(np.searchsorted(clip.at_ms, key.at_ms % CLIP_MS))], key=key)


def table(scan: VideoScan, clips: Sequence[Clip], cameras: int, lengths: Sequence[str], count: int) -> list[list[object]]:
    """Rows by length: carriers in all, recall (see `Found`), accuracy where it was there and where not, time of selection."""
    rows: list[list[object]] = []
    for name in lengths:
        length = LENGTHS[name]
        r = Random(f"needle {cameras}")
        some = [search(scan, needle, cameras, length, r) for needle, _ in zip(needles(clips, r), range(count), strict=False)]
        there, absent = [f for f in some if f.recall], [f for f in some if not f.recall]
        recall = np.mean([f.recall for f in there], axis=0).tolist()
        figures = [*recall, *(float(np.mean([f.right for f in fs])) for fs in (there, absent))]
        rows.append([cameras, name, cameras * length * SECONDS, *figures, float(np.percentile([f.select_ms for f in some], 95))])
    return rows


def main(
    model: Path = embedded.FOLDER,
    sites: int = 500,
    count: int = 120,
    first: Annotated[int, typer.Option(help="Seed of the first site.")] = HELD_OUT,
    footage: Annotated[Path | None, typer.Option(help="Keep films here, and find them again.")] = None,
    one_camera: Annotated[bool, typer.Option("--one-camera", help="Leave out the rows of sixteen, which take longest.")] = False,
    quick: Annotated[bool, typer.Option(help="Fewer sites and questions.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print recall and accuracy against the length of the stream."""
    scan = with_head(model)
    clips = pool(scan, 8 if quick else sites, first, footage)
    recall = ("event's read closer", f"event's among {BUDGET}", "evenly spread")
    columns = ("cameras", "stream", "carriers", *recall, "right, there", "right, not", "select p95 ms")
    lengths = tuple(LENGTHS)[: 3 if quick else None]
    rows = [row for cameras in (1, 16)[: 1 if one_camera else None] for row in table(scan, clips, cameras, lengths, 12 if quick else count)]
    show("A few seconds among hours", columns, rows, [f"model {scan.fingerprint}", f"{len(clips) * SECONDS:,} different seconds"])
    write(json_file, {"needle": [dict(zip(columns, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    typer.run(main)
