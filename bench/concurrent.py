"""How many questions are answered a second when several come at once, and how many rules judged: one by one, and sharing passes.

    python -m bench.concurrent [--model FOLDER] [--json FILE]

Each question looks at as many carriers as an answer may, of random numbers: what is said is of no use, but every way must say the same.
CPU time is told beside the clock's, which other work on the machine slows.
"""

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer

from bench.report import show, write
from model import embedded
from model.backbone import Backbone
from model.batch import Batch
from model.videoscan import VideoScan
from pipeline.answerer import RECENT
from pipeline.core import Carrier, CarrierKey, TimeRange
from pipeline.rules import TOGETHER
from simulator.visits import COLOURS

QUESTIONS = ("Was there a red car at the gate?", "How long ago did you see a white truck?", "What do you see now?", "Is there a person?")
AT_ONCE = (1, 10, 50)
SEATS = (8, 32)
ROUNDS = 5

RULES = (1, 8, TOGETHER)
RULE_COLUMNS = ("rules", "one by one", "together")

Asked = tuple[str, Sequence[Carrier]]


def main(
    model: Annotated[str, typer.Option(help="A Hugging Face name or a folder.")] = str(embedded.FOLDER),
    json: Annotated[Path | None, typer.Option(help="Also write the figures there.")] = None,
) -> None:
    """Print answers a second."""
    torch.set_num_threads(1)
    scan = VideoScan(Backbone.load(model))
    asked = [(QUESTIONS[i % len(QUESTIONS)], carriers(scan, i)) for i in range(max(AT_ONCE))]
    ways: dict[str, Callable[[Sequence[Asked]], list[str]]] = {"one by one": lambda some: [scan.decode(*one).text for one in some]}
    ways |= {f"sharing passes, {seats} seats": lambda some, seats=seats: together(scan, some, seats) for seats in SEATS}  # type: ignore[misc]
    rows: list[list[object]] = []
    for at_once in AT_ONCE:
        told = [way(asked[:at_once]) for way in ways.values()]
        assert all(each == told[0] for each in told)
        rows += [[at_once, name, *rates(way, asked[:at_once])] for name, way in ways.items()]
    columns = ("at once", "way", "answers/s", "answers/s of CPU time")
    show("Answers a second", columns, rows, [f"{scan.budget} carriers a question, one thread, medians of {ROUNDS}"])
    judged = [[some, *rules(scan, some)] for some in RULES]
    show("Rules judged a second of CPU time", RULE_COLUMNS, judged, [f"{RECENT} carriers a rule, one thread, medians of {ROUNDS}"])
    write(json, {"columns": columns, "rows": rows, "rule_columns": RULE_COLUMNS, "rules": judged})


def carriers(scan: VideoScan, seed: int) -> list[Carrier]:
    """As many as an answer looks at."""
    r, spec = np.random.default_rng(seed), scan.backbone.spec
    kv = r.standard_normal((scan.budget, spec.layers, 2, spec.kv_heads, spec.head_dim)).astype(np.float32)
    keys = [CarrierKey(camera_id="gate", at_ms=1000 * i) for i in range(scan.budget)]
    span, embedding = TimeRange(start_ms=0, end_ms=0), np.zeros(spec.hidden, np.float32)
    return [Carrier(key=k, fingerprint=scan.fingerprint, span=span, embedding=embedding, kv=each) for k, each in zip(keys, kv, strict=True)]


def together(scan: VideoScan, asked: Sequence[Asked], seats: int) -> list[str]:
    """The answers; whenever a seat is free, who waits sits down."""
    batch: Batch[int] = Batch(scan)
    waiting, answers = dict(enumerate(asked)), dict[int, str]()
    speaking = 0
    while len(answers) < len(asked):
        joining = {name: waiting.pop(name) for name in list(waiting)[: seats - speaking]}
        said = batch.turn(joining)
        answers |= {name: each.text for name, each in said.items() if each.ended}
        speaking = sum(not each.ended for each in said.values())
    return [answers[i] for i in range(len(asked))]


def rates(way: Callable[[Sequence[Asked]], object], asked: Sequence[Asked]) -> tuple[float, float]:
    """Answers a second by the clock, and by the CPU time that they took."""
    wall, cpu = [], []
    for _ in range(ROUNDS):
        began, began_cpu = time.perf_counter(), time.process_time()
        way(asked)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return len(asked) / median(wall), len(asked) / median(cpu)


def rules(scan: VideoScan, count: int) -> tuple[float, float]:
    """Rules judged a second of CPU time, one by one and together."""
    asked = [f"Is it true now that a {colour} truck is there?" for colour in islice(cycle(COLOURS), count)]
    sets = [carriers(scan, i)[:RECENT] for i in range(count)]
    pairs = list(zip(asked, sets, strict=True))

    def alone() -> list[float]:
        return [scan.judge([question], [seen])[0].probability for question, seen in pairs]

    def together() -> list[float]:
        return [each.probability for each in scan.judge(asked, sets)]

    assert np.allclose(alone(), together(), atol=1e-4)
    return rates(lambda _: alone(), pairs)[1], rates(lambda _: together(), pairs)[1]


if __name__ == "__main__":
    typer.run(main)
