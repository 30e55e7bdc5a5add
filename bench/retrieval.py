"""How well frames are found by what they show: by the head that was trained for it, and without any training.

    python -m bench.retrieval [--sites 4] [--json FILE]

Held-out sites are watched twice by the embedded model: as it was taught, and as if nobody had taught it carriers (`model.training_free`).
Of 512 pictures of all cameras, how many of those that plainly show a subject are among the 64 that a question about it is most alike?
The embedded model was taught all that it knows by reading carriers, so this says that the arithmetic finds something, not how well it
does with a published model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from bench.accuracy import remember
from bench.held_out import frames
from bench.looking import vectors
from bench.report import console, show, write
from model import embedded, relevance
from model.backbone import Backbone
from model.similarity import Similarity
from model.training_free import untaught
from model.videoscan import VideoScan
from simulator.visits import COLOURS, MOVERS
from simulator.watching import CLEAR, HINT, Shot, Subject, article, watch_at
from simulator.world import Site

HELD_OUT = 970_000
OF, BEST = 512, 64
DRAWS = 10  # of the 512, for each question


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """Pictures by their vectors, and what is to be seen in each."""

    vectors: NDArray[np.float32]
    shots: list[Shot]


def watched(scan: VideoScan, seed: int) -> Seen:
    """Every picture of a held-out site."""
    scored, shots = [], []
    for camera, carriers in remember(scan, frames(seed, scan.backbone.vision.image_size)).items():
        scored.append(vectors(carriers))
        shots += watch_at(Site(seed), {camera: [c.key.at_ms / 1000 for c in carriers]}).shots
    return Seen(vectors=np.concatenate(scored), shots=shots)


def together(parts: Sequence[Seen]) -> Seen:
    """Of all sites."""
    return Seen(vectors=np.concatenate([part.vectors for part in parts]), shots=[shot for part in parts for shot in part.shots])


def recalls(scan: VideoScan, seen: Seen) -> list[float]:
    """Of every subject that at least 3 and at most 64 of the pictures plainly show: the mean share that is found."""
    r, found = Random(0), []
    for subject in (Subject(kind, colour) for kind in MOVERS for colour in COLOURS):
        most = np.array([max([s.visible for s in shot.sightings if subject.matches(s)], default=0) for shot in seen.shots])
        sought = scan.sought(f"Was there {article(subject.words(r))}?")
        assert sought is not None
        if 3 <= (most >= CLEAR).sum() <= BEST:
            found.append(recall(seen.vectors @ sought, most))
    return found


def recall(scores: NDArray[np.float32], visible: NDArray[np.float64]) -> float:
    """Of pictures that plainly show it, the share among the best; those that barely show it count on neither side."""
    draws = np.random.default_rng(0)
    counted = np.flatnonzero((visible >= CLEAR) | (visible < HINT))
    shares = []
    for _ in range(DRAWS):
        drawn = draws.permutation(counted)[:OF]
        best = drawn[np.argsort(-scores[drawn])[:BEST]]
        if (shown := (visible[drawn] >= CLEAR).sum()) > 0:
            shares.append((visible[best] >= CLEAR).sum() / shown)
    return float(np.mean(shares))


def main(
    sites: Annotated[int, typer.Option(help="Held-out sites to watch.", min=3)] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print how much of what is asked about is found."""
    taught = Backbone.load(embedded.FOLDER)
    free = Backbone(taught.net, taught.tokenizer, untaught(taught), taught.channels)
    scans = {
        "trained head": VideoScan(taught, relevance=relevance.load(taught, embedded.FOLDER)),
        "without training": VideoScan(free, relevance=Similarity(free)),
    }
    seen: dict[str, list[Seen]] = {name: [] for name in scans}
    for seed in track(range(HELD_OUT, HELD_OUT + sites), description="watching", console=console):
        for name, scan in scans.items():
            seen[name].append(watched(scan, seed))
    rows: list[list[object]] = []
    for name, scan in scans.items():
        found = recalls(scan, together(seen[name]))
        rows.append([name, len(found), float(np.mean(found)), float(np.std(found) / np.sqrt(len(found))), BEST / OF])
    columns = ("", "questions", f"found among {BEST} of {OF}", "standard error", "by chance")
    show("What a question is about, found", columns, rows, ["shares of the pictures that plainly show it"])
    write(json_file, {"retrieval": [dict(zip(columns, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    typer.run(main)
