"""Does anything grow? A system that watches and is asked for a long time; the memory of each of its processes all the while."""

import time
from collections.abc import Sequence
from typing import Any

from bench.system.arrivals import Arrivals
from bench.system.asking import outcome, people
from bench.system.figures import Table, slope_an_hour
from bench.system.running import System, watching
from simulator.visits import CAMERAS

COLUMNS = ("process", "first MB", "last MB", "peak MB", "MB an hour", "MB an hour, second half")
SAMPLE_S = 10.0
PEOPLE = 2

Sample = tuple[float, dict[str, float]]  # seconds since the beginning, MB of each process


def soak(minutes: float) -> list[Table]:
    """The table."""
    sample_s = min(SAMPLE_S, 60 * minutes / 10)
    with watching(len(CAMERAS)) as (system, url), Arrivals(url) as arrivals:
        arrivals.wait(len(CAMERAS))
        with people(system.url, PEOPLE, 60 * minutes) as asked:
            samples = watch(system, 60 * minutes, sample_s)
        carriers = len(arrivals.seen)
    table = Table(
        title=f"Soak: {minutes:g} minutes, {len(CAMERAS)} cameras, {PEOPLE} who ask all the time",
        columns=COLUMNS,
        rows=rows(samples),
        notes=(
            f"Resident memory every {sample_s:g} s from when all cameras were seen; slopes are of least squares.",
            f"{carriers:,} carriers were made; questions answered: {outcome(asked)}.",
            "Redis grows by what is remembered: that is its work. What ended before the last sample is in the JSON, with the whole series.",
        ),
        more={"at_s": [at for at, _ in samples], "mb": series(samples)},
    )
    return [table]


def watch(system: System, seconds: float, sample_s: float) -> list[Sample]:
    """Samples, on a grid that does not drift."""
    began = time.monotonic()
    samples = []
    for i in range(int(seconds / sample_s) + 1):
        time.sleep(max(0.0, began + i * sample_s - time.monotonic()))
        samples.append((time.monotonic() - began, system.resident_mb()))
    return samples


def series(samples: Sequence[Sample]) -> dict[str, list[float | None]]:
    """Of each process that ever ran, every sample; none where it did not run."""
    names = sorted({name for _, mb in samples for name in mb})
    return {name: [mb.get(name) for _, mb in samples] for name in names}


def rows(samples: Sequence[Sample]) -> list[list[object]]:
    """Of each process that ran at the end, the largest first, and of all together."""
    found: list[list[Any]] = []
    for name in samples[-1][1]:
        own = [(at, mb[name]) for at, mb in samples if name in mb]
        found.append([name.rpartition(" ")[0], *_summary(own)])
    found.sort(key=lambda row: -row[2])
    return [*found, ["all", *_summary([(at, sum(mb.values())) for at, mb in samples])]]


def _summary(own: Sequence[tuple[float, float]]) -> list[float]:
    at, mb = zip(*own, strict=True)
    half = len(at) // 2
    return [mb[0], mb[-1], max(mb), slope_an_hour(at, mb), slope_an_hour(at[half:], mb[half:])]
