"""Days of one camera pushed through all of the prefill plane as fast as this machine goes: the memory of the process must stay flat.

    python -m bench.camera_day [--days 7] [--quick] [--json FILE] [--model FOLDER]

86,400 pictures a day of 640 x 360, dated a second apart, go through the gate, the model with its live memory, the writer and a real Redis,
and are then asked for. They are filmed from a simulated site before (still and busy minutes of one camera, through H.264) and played
again and again in random order: the machine would else render all day. Every picture of a piece so comes back bit for bit, its noise too.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import redis
import typer
from numpy.typing import NDArray
from rich.progress import track

from bench.memory import CODEC, DAY, resident_mb, server
from bench.report import console, show, write
from model import embedded, relevance
from model.backbone import Backbone
from model.videoscan import VideoScan
from pipeline.core import STILL_S, CarrierKey, CarrierWrite, Frame, LongwatchError
from pipeline.prefiller import Model, Prefiller
from pipeline.stillness import StillGate
from pipeline.writer import Writer
from simulator.codec import through_h264
from simulator.render import render
from simulator.world import Site
from storage.store import CarrierStore

Picture = NDArray[np.uint8]

CAMERA = "gate"
SEED = 980_000
PIECE_S = 60
BUSY = 0.25  # of the pieces that are played
BACKLOG = 128  # writes that may wait before the next picture is taken: a camera would not wait, and here nothing may be lost
PARTS = 24  # rows of the table, however many days


class Lost(LongwatchError):
    """Not all that was written is there."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has become of the pictures so far."""

    pictures: int = 0
    carriers: int = 0
    whole: int = 0  # of them, those that repeat none


class Day:
    """One camera's way into the store. `push` takes pictures in order of time, the first at `first_ms` and the others a second apart."""

    def __init__(self, model: Model, store: CarrierStore, first_ms: int) -> None:
        self.tally = Tally()
        self._next_ms = first_ms
        self._gate = StillGate(STILL_S)
        self.writer = Writer(store.put, note=store.note_loss)
        self._prefiller = Prefiller(model, recall=store.live, write=self._write, claim=store.claim)

    def push(self, pictures: Sequence[Picture] | Iterator[Picture]) -> None:
        """As fast as they are taken; waits where the store is behind."""
        for picture in pictures:
            frame = Frame(camera_id=CAMERA, pts_ns=self._next_ms * 1_000_000, captured_ms=self._next_ms, image=picture)
            self._next_ms += 1000
            self.tally.pictures += 1
            if self._gate.passes(frame):
                self._prefiller.step([frame])
            while self.writer.waiting > BACKLOG:
                time.sleep(0.001)

    def _write(self, write: CarrierWrite) -> None:
        self.tally.carriers += 1
        self.tally.whole += write.repeats is None
        self.writer.write(write)


def film(still_pieces: int = 2, busy_pieces: int = 4) -> tuple[list[list[Picture]], list[list[Picture]]]:
    """Still and busy minutes of one camera of one site."""
    sites = [(Site(SEED, traffic=0.0), still_pieces), (Site(SEED), busy_pieces)]
    shot: list[list[list[Picture]]] = []
    for site, count in sites:
        starts = [36_000 + i * 5 * PIECE_S for i in range(count)]
        shot.append([through_h264((render(site, CAMERA, start + s) for s in range(PIECE_S)), quantizer=26) for start in starts])
    return shot[0], shot[1]


def played(still: Sequence[Sequence[Picture]], busy: Sequence[Sequence[Picture]]) -> Iterator[Picture]:
    """Pieces without end, in random order."""
    r = Random(SEED)
    while True:
        yield from r.choice(busy if r.random() < BUSY else still)


def check(store: CarrierStore, tally: Tally) -> None:
    """Raises Lost unless every carrier is in the index, and of some hundred all can be read."""
    times = store.times(CAMERA)
    read = store.get([CarrierKey(camera_id=CAMERA, at_ms=at_ms) for at_ms in times[:: max(1, len(times) // 200)]])
    if len(times) != tally.carriers or not all(read):
        raise Lost(f"{tally.carriers} were written, {len(times)} are there, {sum(each is None for each in read)} of {len(read)} unreadable")


def run(model: Model, store: CarrierStore, client: Any, pictures: Iterator[Picture], count: int) -> Iterator[list[object]]:
    """A row as each part of the time is over: pictures, carriers, whole, repeats, pictures a second, MB of this process and of Redis."""
    day = Day(model, store, time.time_ns() // 1_000_000 - count * 1000)
    for part in track(range(PARTS), description="pushing", console=console):
        began = time.perf_counter()
        some = (part + 1) * count // PARTS - part * count // PARTS
        day.push(islice(pictures, some))
        took, tally = time.perf_counter() - began, day.tally
        redis_mb = client.info("memory")["used_memory"] / 2**20
        yield [tally.pictures, tally.carriers, tally.whole, tally.carriers - tally.whole, some / took, resident_mb(), redis_mb]
    day.writer.close(timeout_s=60)
    if day.writer.lost:
        raise Lost(f"{day.writer.lost} carriers were lost on the way")
    check(store, day.tally)


def main(
    model: Path = embedded.FOLDER,
    days: Annotated[int, typer.Option(min=1)] = 1,
    quick: Annotated[bool, typer.Option(help="An hour of pictures.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, after each part.")] = None,
) -> None:
    """Print the memory of the process over some days."""
    backbone = Backbone.load(model)
    scan = VideoScan(backbone, relevance=relevance.load(backbone, model))
    still, busy = film()
    count = DAY // 24 if quick else days * DAY
    columns = ("pictures", "carriers", "whole", "repeats", "pictures a second", "MB of this process", "MB of Redis")
    rows: list[list[object]] = []
    figures: list[dict[str, object]] = []
    began = time.perf_counter()
    with server() as url, redis.Redis.from_url(url) as client:
        store = CarrierStore(url, scan.fingerprint, head=scan.head, codec=CODEC)
        for row in run(scan, store, client, played(still, busy), count):
            rows.append(row)
            figures.append(dict(zip(columns, row, strict=True)))
            write(json_file, {"camera_day": figures})
    resident = [float(str(row[5])) for row in rows]
    notes = [
        f"first {resident[0]:.0f} MB, last {resident[-1]:.0f}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"
        f" (loading and filming included), of which {(len(still) + len(busy)) * PIECE_S * still[0][0].nbytes / 2**20:.0f} the film",
        f"{len(still)} still and {len(busy)} busy minutes, {BUSY:.0%} of the time a busy one; {time.perf_counter() - began:.0f} s in all",
    ]
    show(f"{count:,} pictures of one camera", columns, rows, notes)
    write(json_file, {"camera_day": figures, "notes": notes})


if __name__ == "__main__":
    typer.run(main)
