"""How many cameras a machine carries, what each costs by stage, and what gives out first."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import count
from statistics import median

import httpx
import psutil
import torch

from actors.parts import Settings, load_model, open_store
from actors.prefill import BATCH
from bench.system.arrivals import Arrivals
from bench.system.figures import Table, ms, percentile
from bench.system.running import System, redis, running
from bench.system.site import SEED, START_S, cameras
from pipeline.config import EMBEDDED_MODEL
from pipeline.core import CarrierWrite, Frame
from pipeline.prefiller import jpeg
from simulator.render import render
from simulator.visits import CAMERAS
from simulator.world import Site

COLUMNS = (
    "cameras",
    "frames/s",
    "dropped/s",
    "frame to carrier p50 ms",
    "p95 ms",
    "frames a batch",
    "cores busy",
    "with other work",
    "limit",
)
COSTS = (
    "cameras",
    "ingest",
    "vision",
    "LLM",
    "picture",
    "store",
    "rest of prefill",
    "Redis",
    "Ray, API, decode",
    "all",
    "simulated cameras",
)
NO_LIMIT = "none"
FULL_CORES = 0.9  # busy: then all of them are the limit
REACHED = 0.95  # of the frames offered: below that, the machine is full
PLANES = ("ingest", "prefill", "redis", "cameras")
STAGES = ("vision", "LLM", "picture", "store")
SETTLE_S = 6.0  # in which connections find their key frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large it is asked for."""

    levels: tuple[int, ...]  # cameras, ascending; what follows a full one is not tried
    seconds: float  # of each level
    repeats: int  # of each stage by itself


FULL = Sizes(levels=(1, 4, 16, 64, 80, 96, 112, 128, 160, 192, 224, 256), seconds=30, repeats=15)
QUICK = Sizes(levels=(1, 4), seconds=5, repeats=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What was measured with so many cameras."""

    cameras: int
    seconds: float
    lags: list[float]
    metrics: dict[str, float]  # by how much each rose
    cpu_s: dict[str, float]  # of each process; the same
    busy_s: float  # of all cores of the machine; the same
    refused: str  # why one more camera was not taken; nothing when all were

    @property
    def rate(self) -> float:
        """Carriers a second."""
        return len(self.lags) / self.seconds

    @property
    def batch(self) -> float:
        """Frames prefilled together."""
        return self.metrics["longwatch_prefill_batch_frames_sum"] / max(1.0, self.metrics["longwatch_prefill_batch_frames_count"])

    def row(self) -> list[object]:
        """What became of the frames."""
        dropped = self.metrics["longwatch_camera_frames_dropped_total"] / self.seconds
        lags = [ms(percentile(self.lags, percent)) for percent in (50, 95)]
        busy, others = sum(self.cpu_s.values()) / self.seconds, max(0.0, self.busy_s - sum(self.cpu_s.values())) / self.seconds
        return [self.cameras, self.rate, dropped, *lags, self.batch, busy, others, self.limit()]

    def costs(self, alone: dict[str, float]) -> list[object]:
        """CPU milliseconds of each carrier, given the seconds that a frame takes in each stage of prefill by itself."""
        frames = max(1, len(self.lags))
        own = {name: self.cpu_s.get(name, 0.0) / frames for name in PLANES}
        others = sum(taken for name, taken in self.cpu_s.items() if name not in PLANES) / frames
        stages = [alone[stage] for stage in STAGES]
        each = [own["ingest"], *stages, own["prefill"] - sum(stages), own["redis"], others]
        return [self.cameras, *(ms(cost) for cost in (*each, sum(each), own["cameras"]))]

    def limit(self) -> str:
        """What gave out, if anything did."""
        if self.rate >= REACHED * self.cameras:
            return f"one more is refused: {self.refused}" if self.refused else NO_LIMIT
        greatest = max(self.cpu_s, key=lambda name: self.cpu_s[name])
        cores = os.cpu_count() or 1
        if self.busy_s > FULL_CORES * cores * self.seconds:
            return f"all {cores} cores; most of ours to {greatest}"
        return f"{greatest}, {self.cpu_s[greatest] / self.seconds:.2f} of a core"


def scale(quick: bool) -> list[Table]:
    """What became of the frames, and what they cost."""
    sizes = QUICK if quick else FULL
    found = list(levels(sizes))
    with redis() as server:
        costs = [level.costs(alone(server.url, min(BATCH, max(1, round(level.batch))), sizes.repeats)) for level in found]
    cameras_note = (
        f"{sizes.seconds:g} s a row, every picture prefilled, still or not. Cores busy: of {os.cpu_count()}, simulated cameras included;"
        " and other work on the machine meanwhile."
    )
    stages_note = (
        "Vision, LLM, picture and vector, store: what a frame takes there by itself, in batches of the same size with full memories;"
        " the rest of prefill is what its process took beyond that. All is without the simulated cameras, which run on the same machine."
    )
    return [
        Table(title="Scale: cameras at 1 fps over RTSP", columns=COLUMNS, rows=[level.row() for level in found], notes=(cameras_note,)),
        Table(title="Scale: CPU milliseconds of each carrier", columns=COSTS, rows=costs, notes=(stages_note,)),
    ]


def levels(sizes: Sizes) -> Iterator[Level]:
    """One system, to which cameras are added until it is full."""
    with redis() as memory, cameras(sizes.levels[-1]) as (uris, site):
        names = list(uris)
        first = {name: uris[name] for name in names[: sizes.levels[0]]}
        with running(first, {"cameras": site, "redis": memory.pid}, memory.url, fps=1) as system, Arrivals(memory.url) as arrivals:
            arrivals.wait(len(first))
            watched = len(first)
            for many in sizes.levels:
                added, refused = _add(system.url, {name: uris[name] for name in names[watched:many]})
                watched += added
                with suppress(TimeoutError):  # on a full machine not all may ever be seen, and that is a finding
                    arrivals.wait(watched, patience_s=60)
                time.sleep(SETTLE_S)
                level = _measure(system, arrivals, watched, sizes.seconds, refused)
                yield level
                if level.limit() != NO_LIMIT:
                    return


def _add(url: str, uris: Mapping[str, str]) -> tuple[int, str]:
    """How many more cameras are watched now, and why no others."""
    for added, (name, uri) in enumerate(uris.items()):
        told = httpx.post(f"{url}/v1/streams", json={"id": name, "uri": uri, "fps": 1, "still_s": 0}, timeout=60)
        if told.status_code == HTTPStatus.CONFLICT:
            return added, str(told.json()["error"]["message"])
        told.raise_for_status()
    return len(uris), ""


def _measure(system: System, arrivals: Arrivals, many: int, seconds: float, refused: str) -> Level:
    metrics, cpu_s, busy_s, since_s = system.metrics(), system.cpu_s(), _busy_s(), time.time()
    time.sleep(seconds)
    until_s = time.time()
    spent = {name: taken - cpu_s.get(name, 0.0) for name, taken in system.cpu_s().items()}
    busy_s = _busy_s() - busy_s
    rose = {name: value - metrics.get(name, 0.0) for name, value in system.metrics().items()}
    lags = arrivals.lags(since_s, until_s)
    return Level(cameras=many, seconds=until_s - since_s, lags=lags, metrics=rose, cpu_s=spent, busy_s=busy_s, refused=refused)


def _busy_s() -> float:
    """Processor time that anything on this machine has taken."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)  # guests are counted in user time


def alone(redis_url: str, batch: int, repeats: int) -> dict[str, float]:
    """CPU seconds that a frame costs in each stage of prefill by itself, in batches of such a size, with full memories."""
    settings = Settings(redis_url=redis_url, registry_url=redis_url, model=EMBEDDED_MODEL)
    scan = load_model(settings)
    backbone = scan.backbone
    scene = render(Site(SEED), CAMERAS[0], START_S)
    film = [Frame(camera_id=f"camera-{i}", pts_ns=0, captured_ms=0, image=scene) for i in range(batch)]
    full = scan.memory()
    for at in range(backbone.habits.live):
        frame = replace(film[0], captured_ms=at)
        full.add(scan.prefill([frame], [full])[0])
    memories = [full] * batch
    carriers = scan.prefill(film, memories)
    picture = jpeg(film[0])
    store, tick = open_store(settings, scan.fingerprint, head=scan.head), count(int(time.time() * 1000))

    def write() -> None:
        now_ms = next(tick)
        for carrier in carriers:
            moved = replace(carrier, key=replace(carrier.key, at_ms=now_ms))
            store.put([CarrierWrite(carrier=moved, picture=picture, live=(now_ms,))])

    with torch.inference_mode():
        vision = _cpu_s(lambda: backbone.see([frame.image for frame in film]), repeats)
    prefill = _cpu_s(lambda: scan.prefill(film, memories), repeats)
    kept = _cpu_s(lambda: [jpeg(frame) for frame in film], repeats)
    written = _cpu_s(write, repeats)
    store.close()
    spent = {"vision": vision, "LLM": prefill - vision, "picture": kept, "store": written}
    return {stage: seconds / batch for stage, seconds in spent.items()}


def _cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Processor time of this process, the median of several times after a first."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return median(taken)
