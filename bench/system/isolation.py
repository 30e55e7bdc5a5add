"""Does a question delay a frame? Frames to carriers while more and more people ask, with the planes apart and in one process."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from bench.system.arrivals import Arrivals
from bench.system.asking import answered, outcome, people
from bench.system.figures import Table, ms, percentile
from bench.system.running import System, watching

COLUMNS = (
    "way",
    "who ask",
    "frames/s",
    "frame p50 ms",
    "p95 ms",
    "p99 ms",
    "p95 of quiet",
    "answers/s",
    "answer p50 ms",
    "answer p95 ms",
    "answered",
)
TARGET = 1.25  # p95 with 50 questions, of that with none
APART, SHARED, ONE = "apart, own core", "apart, shared", "one process"
WARM_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large it is asked for."""

    cameras: int
    fps: float
    levels: tuple[int, ...]  # questions at once; the first is none
    seconds: float  # of each level
    ways: tuple[str, ...]


FULL = Sizes(cameras=8, fps=2, levels=(0, 1, 10, 50), seconds=18, ways=(APART, SHARED, ONE))
QUICK = Sizes(cameras=4, fps=2, levels=(0, 10), seconds=4, ways=(APART, ONE))


def isolation(quick: bool) -> list[Table]:
    """The table."""
    sizes = QUICK if quick else FULL
    rows: list[list[object]] = []
    pinned = ""
    for way in sizes.ways:
        with watching(sizes.cameras, fps=sizes.fps, planes=way != ONE) as (system, url), Arrivals(url) as arrivals:
            arrivals.wait(sizes.cameras)
            with system.pinned("prefill") if way == APART else nullcontext(pinned) as pinned:
                rows += levels(way, system, arrivals, sizes)
    offered = (
        f"{sizes.cameras} cameras at {sizes.fps:g} fps over RTSP offer {sizes.cameras * sizes.fps:g} frames/s; {sizes.seconds:g} s a row"
    )
    table = Table(
        title="Isolation: frames while people ask",
        columns=COLUMNS,
        rows=rows,
        notes=(
            f"{offered}; {pinned}",
            f"{APART}: the planes as processes, prefill with a core to itself; {SHARED}: the same, as the system places them;"
            f" {ONE}: the same work without Ray, all passes of the model on one thread.",
            "From the camera's clock to Redis' own word that it has the carrier; each who asks goes on at once with another question.",
            f"Target: p95 under 50 questions at most {TARGET} of none's, on separate cores.",
        ),
    )
    return [table]


def levels(way: str, system: System, arrivals: Arrivals, sizes: Sizes) -> Iterator[list[object]]:
    """A row for each number of people who ask."""
    quiet_s = 0.0
    for count in sizes.levels:
        with people(system.url, count, WARM_S + sizes.seconds) as asked:
            time.sleep(WARM_S)
            since_s = time.time()
            time.sleep(sizes.seconds)
            until_s = time.time()
        lags = arrivals.lags(since_s, until_s)
        within = [each for each in asked if since_s <= each.at_s + each.took_s < until_s]
        took = [each.took_s for each in answered(within)]
        middle, high, highest = (percentile(lags, percent) for percent in (50, 95, 99))
        quiet_s = quiet_s or high
        seconds = until_s - since_s
        figures = [len(lags) / seconds, ms(middle), ms(high), ms(highest), high / quiet_s]
        yield [way, count, *figures, len(took) / seconds, ms(percentile(took, 50)), ms(percentile(took, 95)), outcome(within)]
