"""Simulated footage for training: every site's four cameras, sampled once a second, as the vision tower will see it.

    python -m model.footage .cache/footage --sites 320

Each file holds one site: pictures [cameras, seconds, side, side, 3] uint8 and the site times they show. The truth is not
stored: the seed and the time give it back.
"""

from collections.abc import Iterator
from itertools import combinations, count, islice
from multiprocessing import Pool
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track

from model.images import resize
from simulator.codec import through_h264
from simulator.render import render
from simulator.visits import CAMERAS
from simulator.watching import HINT
from simulator.world import Site

TRAINING_SEEDS = range(1_000, 900_000)  # held-out sites have seeds from 900,000 on
PASSAGE_S = 4  # of crowded footage
BEFORE = 70  # of the WIDTH that sites are drawn in: of things closer than this one may cover the other


def film(seed: int, seconds: int, side: int, crowded: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Watch a site from a random hour on: pictures [cameras, seconds, side, side, 3] and times [cameras, seconds].

    One picture a second; of `crowded` footage, those passages alone in which things stand one before the other.
    """
    r = Random(f"footage {seed}")
    site, start = Site(seed), r.uniform(0, 86_400)
    pictures, times = [], []
    for camera in CAMERAS:
        at = [second + r.random() for second in islice(_crowded(site, camera, start) if crowded else count(start), seconds)]
        decoded = through_h264((render(site, camera, t) for t in at), quantizer=r.randint(20, 32))
        pictures.append(resize(torch.from_numpy(np.stack(decoded)), side).permute(0, 2, 3, 1).numpy())
        times.append(at)
    return np.stack(pictures), np.array(times)


def _crowded(site: Site, camera: str, start: float) -> Iterator[float]:
    """The seconds of passages in which something stands before something else."""
    for begin in count(start, PASSAGE_S):
        seen = [s for s in site.sightings(camera, begin + PASSAGE_S / 2) if s.visible >= HINT]
        if any(abs(one.x - other.x) < BEFORE for one, other in combinations(seen, 2)):
            yield from (begin + second for second in range(PASSAGE_S))


def read(folder: Path, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """What `film` gave, of a site that is there."""
    with np.load(folder / f"{seed}.npz", allow_pickle=False) as filmed:
        return filmed["pictures"], filmed["times"]


def _save(job: tuple[int, int, int, bool, Path]) -> None:
    seed, seconds, side, crowded, out = job
    path = out / f"{seed}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)
    pictures, times = film(seed, seconds, side, crowded)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez(file, pictures=pictures, times=times)
    unfinished.rename(path)


def main(
    out: Path,
    sites: int = 300,
    seconds: int = 48,
    side: int = 128,
    workers: int = 2,
    first: int = TRAINING_SEEDS.start,
    crowded: Annotated[bool, typer.Option("--crowded", help="What stands before something else alone: for model.train_relevance.")] = False,
) -> None:
    """Film simulated sites into files; files already there are kept."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, seconds, side, crowded, out) for seed in range(first, first + sites)]
    with Pool(workers) as pool:
        for _ in track(pool.imap_unordered(_save, jobs), total=len(jobs), description="filming"):
            pass


if __name__ == "__main__":
    typer.run(main)
