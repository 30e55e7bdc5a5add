"""What each form of keeping carriers costs, and what it loses.

    python -m bench.quantise [--quick] [--json FILE] [--model FOLDER]

How finely numbers must share scales. Bytes and time of one value, of this model's carriers and of random ones in the shape of a 7B
model. Then held-out questions asked of carriers that went through each form: how far the scores of the answer's first token move, and
which answers are lost and won against carriers as computed. The default form is the smallest that loses nothing that can be measured.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from time import process_time
from timeit import repeat
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track

from bench.accuracy import Asked, quizzes, right
from bench.held_out import FIRST
from bench.report import console, show, write
from model import embedded
from model.backbone import Backbone
from model.videoscan import VideoScan
from pipeline.core import Carrier, Form
from storage.codec import Codec
from storage.quantise import BITS, quantise, restore, widen
from storage.seal import Seal

SCORED = 4  # the scores of every fourth question are compared, the answers of all
RUNS, ROUNDS = 20, 9

GROUPS = (8, 16, 32)

GRAINS = ("coding", "numbers a scale", "bits a number", "error (RMS) of keys", "of values")
COSTS = ("carrier", "form", "bytes", "encode us", "decode us")
LOSSES = ("form", "questions", "right", "lost", "won", "score error, mean", "worst", "least cosine of an embedding")


def grains(carriers: Sequence[Carrier]) -> list[list[object]]:
    """How much is lost by how many numbers share a scale: the error of keys and values, relative to their own size."""
    kv = np.stack([widen(carrier.kv) for carrier in carriers])  # [carriers, layers, 2, kv_heads, head_dim]
    rows: list[list[object]] = []
    for coding, bits in BITS.items():
        for group in (group for group in GROUPS if kv.shape[-1] % group == 0):
            errors: list[str] = []
            for numbers in (kv[:, :, 0], kv[:, :, 1]):
                raw = quantise(numbers.reshape(-1, group), bits)
                off = restore(raw, numbers.size, group, bits, "float32").reshape(numbers.shape) - numbers
                errors.append(f"{np.sqrt((off**2).mean() / (numbers**2).mean()):.5f}")
            rows.append([coding, group, 8 * len(raw) / numbers.size, *errors])
    return rows


def costs(name: str, carrier: Carrier) -> list[list[object]]:
    """Bytes of a value, and microseconds of CPU to make and to read it: the best of several rounds, as other work only adds."""
    sealed = Seal([os.urandom(32)])
    codecs = {form.value: Codec(form=form) for form in Form} | {"int8, sealed": Codec(form=Form.INT8, seal=sealed)}
    rows: list[list[object]] = []
    for form, codec in codecs.items():
        value = codec.encode(carrier)
        encode = repeat(partial(codec.encode, carrier), number=RUNS, repeat=ROUNDS, timer=process_time)
        decode = repeat(partial(codec.decode, value, carrier.key, carrier.fingerprint), number=RUNS, repeat=ROUNDS, timer=process_time)
        rows.append([name, form, len(value), *(round(min(times) / RUNS * 1e6) for times in (encode, decode))])
    return rows


def random_7b(carrier: Carrier) -> Carrier:
    """A carrier of random numbers in Qwen2-7B's shape, in half precision."""
    r = np.random.default_rng(7)
    kv, embedding = (r.standard_normal(shape).astype(np.float16) for shape in ((28, 2, 4, 128), (3584,)))
    return replace(carrier, kv=kv, embedding=embedding)


def stored(carriers: Sequence[Carrier], form: Form) -> list[Carrier]:
    """The carriers as they come back from the memory."""
    codec = Codec(form=form)
    return [codec.decode(codec.encode(carrier), carrier.key, carrier.fingerprint) for carrier in carriers]


def losses(scan: VideoScan, asked: Sequence[Asked], form: Form, as_computed: Sequence[bool]) -> list[object]:
    """One row of LOSSES."""
    errors, cosines, verdicts = [], [], []
    for i, one in enumerate(asked):
        back = stored(one.carriers, form)
        verdicts.append(right(scan, one, back))
        if i % SCORED == 0:
            errors.append(_score_error(scan, one.quiz.text, one.carriers, back))
            cosines += [_cosine(a, b) for a, b in zip(one.carriers, back, strict=True)]
    pairs = list(zip(as_computed, verdicts, strict=True))
    moved = [pairs.count((True, False)), pairs.count((False, True))]
    share = sum(verdicts) / len(verdicts)
    return [form.value, len(pairs), share, *moved, f"{np.mean(errors):.5f}", f"{max(errors):.5f}", f"{min(cosines):.6f}"]


@torch.inference_mode()
def _score_error(scan: VideoScan, question: str, carriers: Sequence[Carrier], back: Sequence[Carrier]) -> float:
    before, after = (scan._ask(question, some)[0].double() for some in (carriers, back))
    return float((before - after).abs().max())


def _cosine(a: Carrier, b: Carrier) -> float:
    x, y = (widen(one.embedding).astype(np.float64) for one in (a, b))
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def main(
    model: Path = embedded.FOLDER,
    sites: int = 6,
    quick: Annotated[bool, typer.Option(help="One site.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print the three tables."""
    scan = VideoScan(Backbone.load(model))
    seeds = track(range(FIRST, FIRST + (1 if quick else sites)), description="watching", console=console)
    r = Random("bench quantise")
    asked = [one for seed in seeds for one in quizzes(scan, seed, r)]
    write(json_file, tables(scan, asked, [f"model {scan.fingerprint}, {model}"]))


def tables(scan: VideoScan, asked: Sequence[Asked], notes: Sequence[str]) -> dict[str, Any]:
    """Measure, print, and give the figures."""
    grain_rows = grains([carrier for one in asked[::SCORED] for carrier in one.carriers])
    show("Scales", GRAINS, grain_rows)
    carrier = asked[0].carriers[0]
    cost_rows = [*costs("this model", carrier), *costs("7B, random", random_7b(carrier))]
    show("One value", COSTS, cost_rows)
    as_computed = [right(scan, one, one.carriers) for one in track(asked, description="as computed", console=console)]
    loss_rows = [losses(scan, asked, form, as_computed) for form in track(list(Form), description="asking", console=console)]
    show("Held-out questions, carriers through each form", LOSSES, loss_rows, notes)
    return {
        "grains": [dict(zip(GRAINS, row, strict=True)) for row in grain_rows],
        "costs": [dict(zip(COSTS, row, strict=True)) for row in cost_rows],
        "losses": [dict(zip(LOSSES, row, strict=True)) for row in loss_rows],
    }


if __name__ == "__main__":
    typer.run(main)
