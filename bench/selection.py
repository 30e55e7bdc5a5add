"""How long it takes to choose what an answer looks at, among a day of one camera and weeks of many.

    python -m bench.selection [--quick] [--json FILE]

A Redis of its own is filled with times and vectors, one a second. The vectors are random: what is chosen means nothing, how long it
takes does. Cold is a process that has read nothing yet, cached one that was asked before. On a busy machine the processor time of
this process says more than the clock; Redis' own is not in it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import redis
import torch
import typer
from numpy.typing import NDArray

from bench.report import console, show, write
from model import embedded
from model.backbone import Backbone
from model.relevance import Relevance
from model.videoscan import VideoScan
from pipeline.answerer import Answerer
from pipeline.core import VECTOR, CarrierKey
from pipeline.selection import select
from storage import keys
from storage.codec import Codec
from storage.redis_server import PrivateRedis
from storage.seal import Seal
from storage.store import CarrierStore
from storage.vectors import HOUR_MS, RECORD, Vectors

START_MS = 490_000 * HOUR_MS
PER_HOUR = 3600
CACHE_BYTES = 2 << 30
BUDGET = 64
QUESTION = "When was the red car last seen?"
ADD_TIMES = "for i = 0, ARGV[2] - 1 do local t = string.format('%.0f', ARGV[1] + i * 1000) redis.call('ZADD', KEYS[1], t, t) end"


def strings(vectors: Vectors, camera: str, hours: int) -> Iterator[tuple[str, bytes]]:
    """Names and values of a camera's hours; in the clear all hold the same vectors, which is quicker to make."""
    numbers = np.random.default_rng(0).standard_normal((PER_HOUR, VECTOR)).astype(np.float32)
    table = np.zeros(0, RECORD)
    for hour in range(hours):
        times = START_MS + hour * HOUR_MS + 1000 * np.arange(PER_HOUR)
        named = [CarrierKey(camera_id=camera, at_ms=int(at)) for at in times]
        if len(table):
            table["at_ms"] = times
            yield vectors.record(named[0], numbers[0])[0], table.tobytes()
            continue
        names, records = zip(*map(vectors.record, named, numbers), strict=True)
        yield names[0], b"".join(records)
        if not vectors.seal.overhead:
            table = np.frombuffer(b"".join(records), RECORD).copy()


def fill(url: str, scan: VideoScan, codec: Codec, cameras: list[str], hours: int) -> None:
    """Times, vectors and the guard of each camera, and of its carriers the oldest, by which an index is known to be whole."""
    vectors = Vectors(fingerprint=scan.fingerprint, head=scan.head or "", seal=codec.seal, misses=Counter(), cache=None)
    store = CarrierStore(url, scan.fingerprint)
    with redis.Redis.from_url(url, socket_timeout=120) as client:
        client.flushall()
        for camera in cameras:
            for name, value in strings(vectors, camera, hours):
                client.set(name, value)
            client.eval(ADD_TIMES, 1, keys.index(camera, scan.fingerprint), str(START_MS), str(hours * PER_HOUR))
            client.set(keys.carrier(CarrierKey(camera_id=camera, at_ms=START_MS), scan.fingerprint), b"")
            store.claim(camera)
    store.close()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds by the clock, and of this process' processor time."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - clock) * 1000, (time.process_time() - cpu) * 1000


def rows(url: str, scan: VideoScan, what: str, codec: Codec, cameras: list[str], repeats: int) -> list[list[object]]:
    """Cold and from the cache: reading the time index, and 95th percentiles of choosing by relevance."""

    def opened() -> CarrierStore:
        return CarrierStore(url, scan.fingerprint, head=scan.head, cache_bytes=CACHE_BYTES, codec=codec, timeout_s=30)

    def choose(store: CarrierStore) -> tuple[float, float]:
        answerer = Answerer(scan, store, lambda: cameras, budget=BUDGET)
        taken = timed(lambda: select(answerer.candidates(QUESTION, times), BUDGET))
        if store.misses:
            raise typer.BadParameter(f"not all was found: {dict(store.misses)}")
        return taken

    warm = opened()
    times: dict[str, NDArray[np.int64]] = {}
    index = [timed(lambda: times.update({camera: warm.captured(camera) for camera in cameras})) for _ in range(2)]
    cold = [choose(opened()) for _ in range(repeats)]
    choose(warm)
    cached = [choose(warm) for _ in range(repeats)]
    count = sum(map(len, times.values()))
    return [
        [what, count, how, *once, *map(float, np.percentile(each, 95, axis=0))]
        for how, once, each in zip(("cold", "cached"), index, (cold, cached), strict=True)
    ]


def main(
    quick: Annotated[bool, typer.Option(help="16 camera-days in the place of camera-weeks.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print how long choosing takes."""
    torch.set_num_threads(1)
    backbone = Backbone.load(embedded.FOLDER)
    scan = VideoScan(backbone, relevance=Relevance.of(backbone).eval().requires_grad_(False))
    sealed = Codec(seal=Seal([bytes(32)]))
    sixteen, days = [f"cam-{i}" for i in range(16)], 1 if quick else 7
    cases = [("a camera-day", Codec(), ["cam-0"], 24, 20), ("a camera-day, sealed", sealed, ["cam-0"], 24, 3)]
    cases.append((f"16 cameras, {days} days", Codec(), sixteen, 24 * days, 5))
    table: list[list[object]] = []
    with TemporaryDirectory() as folder, PrivateRedis(Path(folder)) as server:
        for what, codec, cameras, hours, repeats in cases:
            console.print(f"filling: {what}")
            fill(server.url, scan, codec, cameras, hours)
            table += rows(server.url, scan, what, codec, cameras, repeats)
    columns = ("memory", "carriers", "", "index ms", "its CPU ms", "choosing p95 ms", "its CPU p95 ms")
    show("Choosing 64 carriers by relevance", columns, table, ["targets: a camera-day in 50 ms, 16 camera-weeks in 500 ms"])
    write(json_file, {"selection": [dict(zip(columns, row, strict=True)) for row in table]})


if __name__ == "__main__":
    typer.run(main)
