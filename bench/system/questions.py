"""Questions over a day of four cameras, over HTTP, from the real decode plane: how long they take as more come at once."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from actors.parts import Settings, load_model, open_store
from bench.report import console
from bench.system.asking import answered, outcome, people
from bench.system.figures import Table, ms, percentile
from bench.system.running import System, redis, running
from bench.system.site import CLIP_S, SEED, START_S, cameras
from model.videoscan import VideoScan
from pipeline.config import EMBEDDED_MODEL
from pipeline.core import Carrier, CarrierKey, CarrierWrite, Frame, TimeRange
from simulator.render import render
from simulator.visits import CAMERAS
from simulator.world import Site

COLUMNS = ("at once", "answer p50 ms", "p95 ms", "longest ms", "first token p50 ms", "answers/s", "answered", "VSS, published")
VSS = {1: "2.5 s", 50: "42 s"}  # NVIDIA's blueprint for video search and summarization, on an H100 with a corpus of 72 MB
DAY_S = 86_400
AT_ONCE = 64  # writes in one transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large it is asked for."""

    carriers: int  # of each camera
    levels: tuple[int, ...]  # questions at once
    seconds: float  # of each level


FULL = Sizes(carriers=DAY_S, levels=(1, 10, 50), seconds=30)
QUICK = Sizes(carriers=DAY_S // 10, levels=(1, 10, 50), seconds=4)


def questions(quick: bool) -> list[Table]:
    """The table."""
    sizes = QUICK if quick else FULL
    with redis() as memory, cameras(len(CAMERAS)) as (uris, site):
        filled = fill(memory.url, list(uris), sizes.carriers)
        console.print(filled)
        with running(uris, {"cameras": site, "redis": memory.pid}, memory.url, fps=1) as system:
            with people(system.url, 1, 0.1) as first:
                pass
            rows = list(levels(system, sizes))
    table = Table(
        title=f"Questions over {sizes.carriers * len(CAMERAS):,} carriers of {len(CAMERAS)} cameras, which go on being watched",
        columns=COLUMNS,
        rows=rows,
        notes=(
            filled,
            f"{sizes.seconds:g} s a row. Each who asks goes on at once with another question, over one camera or all, and all of the time.",
            f"The very first question, with nothing read yet, took {first[0].took_s:.2f} s.",
            "VSS: as its makers publish for one and for 50 questions at once, on an H100 over a corpus of 72 MB, with models thousands of"
            " times the size of the embedded one: what people are used to wait, not the same work.",
        ),
    )
    return [table]


def levels(system: System, sizes: Sizes) -> Iterator[list[object]]:
    """A row for each number of people who ask."""
    for count in sizes.levels:
        with people(system.url, count, sizes.seconds) as asked:
            pass
        seconds = max(each.at_s + each.took_s for each in asked) - min(each.at_s for each in asked)
        took = [each.took_s for each in answered(asked)]
        first = [each.first_s for each in answered(asked) if each.first_s is not None]
        figures = [ms(percentile(took, 50)), ms(percentile(took, 95)), ms(percentile(took, 100)), ms(percentile(first, 50))]
        yield [count, *figures, len(took) / seconds, outcome(asked), VSS.get(count, "-")]


def remembered(scan: VideoScan, camera: str, seconds: int) -> list[Carrier]:
    """What a camera of the simulated site remembers of some seconds."""
    site, memory, made = Site(SEED), scan.memory(), []
    for at in range(seconds):
        frame = Frame(camera_id=camera, pts_ns=at, captured_ms=1000 * at, image=render(site, camera, START_S + at))
        made += scan.prefill([frame], [memory])
        memory.add(made[-1])
    return made


def fill(url: str, names: Sequence[str], carriers: int) -> str:
    """Put so many carriers of each camera, one a second until now, as fast as the store takes them. Says how that went."""
    settings = Settings(redis_url=url, registry_url=url, model=EMBEDDED_MODEL)
    scan = load_model(settings)
    store = open_store(settings, scan.fingerprint, head=scan.head)
    made = [remembered(scan, camera, 2 * CLIP_S) for camera in CAMERAS]
    began, start_ms = time.perf_counter(), int(time.time() * 1000) - 1000 * carriers
    for name, real in zip(names, made, strict=True):
        for first in range(0, carriers, AT_ONCE):
            moments = range(first, min(first + AT_ONCE, carriers))
            store.put([_write(name, real[i % len(real)], start_ms + 1000 * i) for i in moments])
    seconds = time.perf_counter() - began
    store.close()
    count = carriers * len(names)
    rate = f"{count:,} carriers were put within {seconds:.0f} s, {count / seconds:,.0f} a second"
    return f"{rate}: {2 * CLIP_S} real ones a camera, again and again at new times."


def _write(name: str, carrier: Carrier, at_ms: int) -> CarrierWrite:
    """The same at another time, without a picture: answering reads none."""
    span = TimeRange(start_ms=at_ms, end_ms=at_ms)
    moved = replace(carrier, key=CarrierKey(camera_id=name, at_ms=at_ms), span=span)
    return CarrierWrite(carrier=moved, picture=b"", live=(at_ms,))
