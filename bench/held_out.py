"""Simulated sites that no model was trained on, questions about them, and what a right answer is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np

from model.footage import film, read
from model.videoscan import Decoded
from pipeline.core import CarrierKey, Frame
from pipeline.grounding import ground, moments, pointed
from pipeline.selection import Candidates, select
from simulator.marking import correct
from simulator.questions import FAMILIES, Quiz, ask
from simulator.visits import CAMERAS
from simulator.watching import Watch, watch_at
from simulator.world import Site

FIRST = 910_000  # first seed of the bench's sites; the demo and the tests have their own
SECONDS = 48

filmed = lru_cache(maxsize=2)(film)  # a site and another one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A question about a site, its truth, and the moments that may be looked at to answer it, in order of time."""

    quiz: Quiz
    watch: Watch
    places: list[tuple[str, int]]  # camera and second of the film


def frames(seed: int, side: int, footage: Path | None = None) -> list[list[Frame]]:
    """A site's film, of that footage (`model.footage`) or filmed now: of each second, a frame of each camera."""
    pictures, times = read(footage, seed) if footage else filmed(seed, SECONDS, side)
    return [
        [
            Frame(camera_id=camera, pts_ns=second, captured_ms=round(times[i, second] * 1000), image=pictures[i, second])
            for i, camera in enumerate(CAMERAS)
        ]
        for second in range(SECONDS)
    ]


def questions(seed: int, film: Sequence[Sequence[Frame]], budget: int, r: Random) -> Iterator[Question]:
    """Questions about one site: each camera alone, and several together."""
    times = {camera: [row[i].captured_ms for row in film] for i, camera in enumerate(CAMERAS)}
    groups = [[camera] for camera in CAMERAS] + [r.sample(CAMERAS, n) for n in (2, 3, 4, 4)]
    for cameras in groups:
        seconds = r.choice((24, 36, 48))
        first = r.randrange(SECONDS - seconds + 1)
        window = {camera: np.array(times[camera][first : first + seconds], np.int64) for camera in cameras}
        chosen = select({camera: Candidates(at_ms=each) for camera, each in window.items()}, budget)
        places = [(key.camera_id, times[key.camera_id].index(key.at_ms)) for key in chosen]
        truth = watch_at(Site(seed), {c: [k.at_ms / 1000 for k in chosen if k.camera_id == c] for c in cameras})
        for family in FAMILIES:
            if quiz := ask(truth, r, family):
                yield Question(quiz=quiz, watch=truth, places=places)


def rightly(quiz: Quiz, watch: Watch, decoded: Decoded, looked_at: Sequence[CarrierKey], later_s: float = 0) -> bool:
    """Whether a question was answered correctly from these moments, which are dated `later_s` later than what was watched."""
    evidence = pointed(decoded.text, moments(looked_at, decoded.attention))
    text = ground(decoded.text, evidence, looked_at[-1].at_ms)
    best = evidence[0] if evidence else None
    at = best.at_ms / 1000 - later_s if best else None
    return correct(quiz, watch, text=text, camera=best.camera_id if best else None, at=at)
