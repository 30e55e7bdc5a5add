"""What the long-term memory costs and how fast it is: bytes of a camera-day, a day of writes with the memory of the process, fetching.

    python -m bench.memory [--quick] [--only fetches] [--json FILE]

A camera-day is 86,400 pictures at one a second, as many of them kept as the gate for still pictures lets through, and of those as many
whole as show something new, or are the first of a minute; the others only repeat them. Fetching is measured
against a plain socket that sends the same bytes in the same run, which is what this machine can do at all, and
against answers of Redis that nobody looks at, which is what any client of it could do.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import redis
import typer
from rich.progress import track

from bench.report import console, show, write
from pipeline.core import Carrier, CarrierKey, CarrierWrite, Form, TimeRange
from storage.carriers import GET_BYTES, GET_LEAST, GET_MOST
from storage.codec import Codec
from storage.freed import keep_freed
from storage.redis_server import PrivateRedis
from storage.store import CarrierStore

FINGERPRINT = "0a1b2c3d"
CODEC = Codec(form=Form.INT8)  # the default of the product
DAY = 86_400
SIZES = {"embedded": (5, 2, 32, 192), "7B": (28, 4, 128, 3584)}  # layers, key-value heads, head size, width
COUNTS = (64, 512, 2048)
ROUNDS = 7
BATCH = 128  # carriers that an answer looks at
Part = Literal["bytes", "fetches"]
Table = tuple[tuple[str, ...], list[list[object]]]  # columns and rows
PICTURE = 25_000  # bytes of a JPEG of 640 x 360, as the simulated site's


def carrier(size: str, at_ms: int, noise: np.ndarray[Any, Any]) -> Carrier:
    """A carrier of a model's size, filled with noise that does not compress."""
    layers, heads, dim, width = SIZES[size]
    start = at_ms % 997
    kv = noise[start : start + layers * 2 * heads * dim].reshape(layers, 2, heads, dim)
    key = CarrierKey(camera_id="gate", at_ms=at_ms)
    span = TimeRange(start_ms=at_ms, end_ms=at_ms)
    return Carrier(key=key, fingerprint=FINGERPRINT, span=span, embedding=noise[start : start + width], kv=kv)


@contextmanager
def server() -> Iterator[str]:
    """A private Redis, reached as the product reaches it."""
    with tempfile.TemporaryDirectory() as folder, PrivateRedis(Path(folder)) as running:
        yield running.socket_url


def resident_mb() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def day_of_writes(pictures: int, noise: np.ndarray[Any, Any]) -> tuple[list[list[object]], float]:
    """Push a camera-day of small carriers as fast as this machine can: rows by tenth of the day, and bytes of Redis for each."""
    rows: list[list[object]] = []
    with server() as url:
        store, client = CarrierStore(url, FINGERPRINT, codec=CODEC), redis.Redis.from_url(url)
        empty, now = client.info("memory")["used_memory"], int(time.time() * 1000) - pictures * 1000
        for tenth in track(range(10), description="a day of writes", console=console):
            began = time.perf_counter()
            for first in range(tenth * pictures // 10, (tenth + 1) * pictures // 10, 64):
                times = [now + 1000 * s for s in range(first, min(first + 64, (tenth + 1) * pictures // 10))]
                live = tuple(times[-32:])
                store.put([CarrierWrite(carrier=carrier("embedded", at, noise), picture=b"", live=live) for at in times])
            rate = pictures / 10 / (time.perf_counter() - began)
            used = (client.info("memory")["used_memory"] - empty) / 2**20
            rows.append([(tenth + 1) * pictures // 10, rate, resident_mb(), used])
        return rows, (client.info("memory")["used_memory"] - empty) / pictures


def bytes_of_repeat(noise: np.ndarray[Any, Any], count: int = 6400) -> float:
    """Of Redis, for one moment that repeats another: two short values, two keys and two index entries."""
    with server() as url:
        store, client = CarrierStore(url, FINGERPRINT, codec=CODEC), redis.Redis.from_url(url)
        now = int(time.time() * 1000) - count * 10
        first = CarrierWrite(carrier=carrier("embedded", now, noise), picture=b"", live=(now,))
        store.put([first])
        before = client.info("memory")["used_memory"]
        for start in range(1, count + 1, 64):
            times = [now + 10 * part for part in range(start, start + 64)]
            store.put([replace(first, carrier=carrier("embedded", at, noise), repeats=now) for at in times])
        return float((client.info("memory")["used_memory"] - before) / count)


def camera_days(each: float, repeat: float, shares: dict[str, tuple[float, float]]) -> list[list[object]]:
    """MB of a camera-day by the shares of it that are kept whole and that repeat: with their keys and index entries, and pictures."""
    small, large = len(CODEC.encode(carrier("embedded", 0, _noise()))), len(CODEC.encode(carrier("7B", 0, _noise())))
    rows: list[list[object]] = []
    for name, (whole, again) in ({"every picture": (1.0, 0.0)} | shares).items():
        sizes = [DAY * (whole * size + again * repeat) / 1e6 for size in (each, each - small + large)]
        rows.append([name, int(DAY * whole), int(DAY * again), *sizes, DAY * whole * PICTURE / 1e6])
    return rows


@contextmanager
def plain_socket(payload: bytes) -> Iterator[Callable[[], None]]:
    """A loopback socket whose other end sends the payload whenever asked to, from another process; yields the reading of it."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        while theirs.recv(1):
            theirs.sendall(payload)
        os._exit(0)
    theirs.close()
    buffer = memoryview(bytearray(len(payload)))

    def read() -> None:
        ours.send(b"?")
        got = 0
        while got < len(payload):
            got += ours.recv_into(buffer[got:])

    with ours:
        yield read
    os.wait()


@contextmanager
def unread(url: str, names: list[str], size: int) -> Iterator[Callable[[], None]]:
    """A socket to Redis, and the reading of all answers from it: commands are made before, and nothing is made of what comes."""
    step = max(GET_LEAST, min(GET_MOST, GET_BYTES // size))
    pack: Callable[..., list[bytes]] = redis.Connection().pack_command
    commands = [b"".join(pack("MGET", *names[start : start + step])) for start in range(0, len(names), step)]
    counts = [min(step, len(names) - start) for start in range(0, len(names), step)]
    lengths = [len(f"*{count}\r\n") + count * (len(f"${size}\r\n") + size + 2) for count in counts]
    buffer, place = memoryview(bytearray(sum(lengths))), urlsplit(url)
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(unquote(place.path))
        ours.sendall(b"".join(pack("AUTH", place.password)))
        assert ours.recv(8) == b"+OK\r\n"

        def read() -> None:
            ours.sendall(commands[0])
            got = end = 0
            for following, length in zip([*commands[1:], b""], lengths, strict=True):
                ours.sendall(following)
                end += length
                while got < end:
                    got += ours.recv_into(buffer[got:end])

        yield read


def fetches(size: str, count: int, noise: np.ndarray[Any, Any]) -> list[object]:
    """One row: a plain socket, Redis alone, carriers as they are kept, those with their numbers restored, and from the cache.

    Each as MB/s, then as this process' own microseconds a carrier.
    """
    with server() as url:
        store, cached = CarrierStore(url, FINGERPRINT, codec=CODEC), CarrierStore(url, FINGERPRINT, cache_bytes=1 << 30, codec=CODEC)
        keys = written(store, size, count, noise)
        value = len(CODEC.encode(carrier(size, keys[0].at_ms, noise)))
        layers, heads, dim, _ = SIZES[size]
        batch = np.zeros((min(count, BATCH), layers, 2, heads, dim), np.float32)

        def restored() -> None:
            for i, one in enumerate(store.get(keys)):
                batch[i % BATCH] = one.kv if one else np.nan

        names = [f"lw:{{gate}}:kv:{FINGERPRINT}:{key.at_ms}" for key in keys]
        with plain_socket(os.urandom(count * value)) as plain, unread(url, names, value) as alone:
            took = by_turns([plain, alone, lambda: store.get(keys), restored, lambda: cached.get(keys)])
        assert all(store.get(keys)), "a carrier was not there"
    speeds = [count * value / 1e6 / wall for wall, _ in took]
    shares = [took[0][n] / took[way][n] for way in (1, 2) for n in (0, 1)]
    return [size, count, count * value / 1e6, *speeds[:4], *shares, *(own / count * 1e6 for _, own in took)]


def written(store: CarrierStore, size: str, count: int, noise: np.ndarray[Any, Any]) -> list[CarrierKey]:
    """The keys of so many carriers that were put, a second from one to the next."""
    now, claim = int(time.time() * 1000) - count * 1000, store.claim("gate")
    times = range(now, now + count * 1000, 1000)
    for at in times:
        store.put([CarrierWrite(carrier=carrier(size, at, noise), picture=b"", live=(at,), claim=claim)])
    return [CarrierKey(camera_id="gate", at_ms=at) for at in times]


def by_turns(works: list[Callable[[], object]]) -> list[tuple[float, float]]:
    """Seconds of each, and seconds of this process' own, at their least: all by turns, so that the noise of the machine is shared."""
    took: list[list[tuple[float, float]]] = [[] for _ in works]
    for turn in range(ROUNDS + 1):
        for work, times in zip(works, took, strict=True):
            wall, own = time.perf_counter(), time.process_time()
            work()
            if turn:  # the first only warms up
                times.append((time.perf_counter() - wall, time.process_time() - own))
    return [(min(wall for wall, _ in times), min(own for _, own in times)) for times in took]


def _noise() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(2**17).astype(np.float32)


def report_bytes(pictures: int, noise: np.ndarray[Any, Any], shares: dict[str, tuple[float, float]]) -> dict[str, Table]:
    """Print what a day of writes took, and what a camera-day takes."""
    rows, each = day_of_writes(pictures, noise)
    columns = ("written", "a second", "MB of this process", "MB of Redis")
    show("A camera-day of carriers, as fast as this machine can", columns, rows)
    repeat = bytes_of_repeat(noise)
    days = camera_days(each, repeat, shares)
    day_columns = ("kept", "whole", "repeats", "MB of carriers, embedded", "MB of carriers, 7B", "MB of pictures")
    notes = [f"{each:.0f} bytes of Redis for each carrier of the embedded model, {repeat:.0f} for each repeat, its picture's included"]
    show("What a camera-day takes", day_columns, days, notes)
    return {"writes": (columns, rows), "days": (day_columns, days)}


def report_fetches(counts: tuple[int, ...], noise: np.ndarray[Any, Any]) -> dict[str, Table]:
    """Print how fast carriers are read."""
    keep_freed()  # as what answers does
    speeds = [fetches(size, count, noise) for size in SIZES for count in counts]
    ways = ("plain socket", "Redis alone", "fetched", "and restored")
    shares = tuple(f"{way} / plain, {by}" for way in ways[1:3] for by in ("MB/s", "own time"))
    columns = ("carriers", "count", "MB", *(f"{way} MB/s" for way in ways), *shares, *(f"{way} us" for way in (*ways, "cached")))
    show("Fetching", columns, speeds, ["us: this process' own time for a carrier, which other work on the machine hardly changes"])
    return {"fetches": (columns, speeds)}


def main(
    still: Annotated[float, typer.Option(help="Share of pictures kept of a still camera: see bench.stillness.")] = 0.128,
    still_whole: Annotated[float, typer.Option(help="Share of them that are kept whole.")] = 0.14,
    busy: Annotated[float, typer.Option(help="Share of pictures kept of a busy camera.")] = 0.567,
    busy_whole: Annotated[float, typer.Option(help="Share of them that are kept whole.")] = 0.92,
    quick: Annotated[bool, typer.Option(help="A twentieth of a day, fewer carriers.")] = False,
    only: Annotated[Part | None, typer.Option(help="One part.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print bytes, rates and speeds."""
    noise, tables = _noise(), dict[str, Table]()
    shares: dict[str, tuple[float, float]] = {}
    for name, kept, whole in (("a busy site", busy, busy_whole), ("a still camera", still, still_whole)):
        shares |= {f"{name}, nothing repeats": (kept, 0.0), name: (kept * whole, kept * (1 - whole))}
    if only != "fetches":
        tables |= report_bytes(DAY // 20 if quick else DAY, noise, shares)
    if only != "bytes":
        tables |= report_fetches(COUNTS[: 2 if quick else 3], noise)
    write(json_file, {name: [dict(zip(head, row, strict=True)) for row in body] for name, (head, body) in tables.items()})


if __name__ == "__main__":
    typer.run(main)
