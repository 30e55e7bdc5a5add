"""A long real video watched by the whole system: are its times right, and does memory stay flat?

    python -m bench.long_stream ten.mp4 ten.mp4.json [--rtsp] [--json FILE]

The second file lists when something moves: {"events": [{"start": s, "end": s, "what": ...}]}. The video is watched as a file in real
time, or re-served over RTSP. Afterwards the remembered pictures are compared with the empty scene, which shows at what times they
moved. The embedded model was never trained on such pictures: what it says of them is printed as it is.
"""

import io
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from actors.app import Longwatch
from actors.demo import free_port
from bench.report import console, show, write
from pipeline.config import Config
from simulator.rtsp import RtspSite
from storage.store import CarrierStore

SAMPLE_S = 30
ASKED = ("Was there a car?", "What colour was the car?", "When did you last see a car?", "How many cars came by?")


def resident_mb() -> dict[str, float]:
    """Resident memory of this process and all below it, by the name of what runs there."""
    found: dict[str, float] = {}
    parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
    for pid in parents:
        chain = pid
        while chain and chain != os.getpid():
            chain = parents.get(chain, 0)
        if chain:
            found |= _resident(pid)
    return found


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _resident(pid: int) -> dict[str, float]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return {}
    return {f"{_program(words)} {pid}": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}


def _program(words: list[str]) -> str:
    """What runs, without where it lies: a script's or a module's name, or what the process calls itself."""
    scripts = [w for w in words[1:] if w and not w.startswith("-")]
    is_python = Path(words[0]).name.startswith("python")
    return Path(scripts[0] if is_python and scripts else words[0]).name or "kernel"


def watch(client: httpx.Client, seconds: float) -> list[dict[str, float]]:
    """Let it watch; memory of every process each half minute."""
    samples = []
    for _ in track(range(int(seconds / SAMPLE_S) + 1), description="watching", console=console):
        time.sleep(SAMPLE_S)
        samples.append(resident_mb())
    client.get("/v1/streams").raise_for_status()
    return samples


def moving(store: CarrierStore, camera: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds since the first picture, and how much each picture differs from the empty scene (the median of all)."""
    times = store.times(camera)
    pictures = [
        np.asarray(Image.open(io.BytesIO(store.picture(camera, at) or b"")).convert("L").resize((160, 90)), np.float32) for at in times
    ]
    empty = np.median(np.stack(pictures[:: max(1, len(pictures) // 200)]), axis=0)
    return (np.array(times) - times[0]) / 1000, np.array([np.abs(p - empty).mean() for p in pictures])


def score(at: NDArray[np.float64], change: NDArray[np.float64], events: list[dict[str, Any]]) -> list[list[object]]:
    """How many events are seen at their times, and how many quiet seconds look busy."""
    busy = change > 2 * np.median(change)
    inside = [np.any(busy[(at >= e["start"] - 0.4) & (at <= e["end"] + 0.4)]) for e in events if e["end"] <= at[-1]]
    quiet = np.ones(len(at), bool)
    for e in events:
        quiet &= (at < e["start"] - 1) | (at > e["end"] + 1)
    return [
        ["pictures", len(at)],
        ["seconds from first to last", float(at[-1])],
        ["median spacing, s", float(median(np.diff(at)))],
        ["events seen at their times", f"{sum(inside)} of {len(inside)}"],
        ["quiet pictures that look busy", f"{int((busy & quiet).sum())} of {int(quiet.sum())}"],
    ]


def memory_rows(samples: list[dict[str, float]]) -> list[list[object]]:
    """Of every process that lived through: MB at the start, in the middle and at the end."""
    first, middle, last = samples[0], samples[len(samples) // 2], samples[-1]
    kept = sorted((name for name in first if name in last and first[name] > 20), key=lambda n: -last[n])
    return [[name, first[name], middle.get(name, 0.0), last[name]] for name in kept]


def main(
    video: Path,
    events: Path,
    rtsp: Annotated[bool, typer.Option("--rtsp", help="Re-serve the file over RTSP.")] = False,
    quick: Annotated[bool, typer.Option(help="One minute of it.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Watch, then look back."""
    truth = json.loads(events.read_text())
    with ExitStack() as stack:
        uri = str(video)
        if rtsp:
            server = RtspSite(lambda *_: np.zeros((360, 640, 3), np.uint8))
            server.add_file("lane", video)
            server.start()
            stack.callback(server.stop)
            uri = server.uri("lane")
        longwatch = stack.enter_context(Longwatch(Config.model_validate({"cameras": {"lane": uri}, "port": free_port(0)})))
        client = stack.enter_context(httpx.Client(base_url=longwatch.url, timeout=60))
        samples = watch(client, 60 if quick else truth["planned_duration"])
        said = [client.post("/v1/ask", json={"question": q}).raise_for_status().json() for q in ASKED]
        rows = score(*moving(CarrierStore(longwatch.redis_url, said[0]["model"]), "lane"), truth["events"])
    show(f"{video.name} over {'RTSP' if rtsp else 'file'}", ("", ""), rows)
    show("Resident memory, MB", ("process", "first", "middle", "last"), memory_rows(samples))
    show("What the embedded model says of it", ("question", "answer"), [[a, b["answer"]] for a, b in zip(ASKED, said, strict=True)])
    write(json_file, {"times": rows, "memory": memory_rows(samples)})


if __name__ == "__main__":
    typer.run(main)
