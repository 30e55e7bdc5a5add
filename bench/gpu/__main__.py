"""Measure a model of real size on an accelerator.

    python -m bench.gpu [--quick] [--json FILE] [--shape 7b|0.5b|tiny] [--seconds 480]

Needs neither Ray nor Redis nor weights: they are random, made on the device. The most important figures come first, and the
JSON file is whole after each, so that nothing is lost when time runs out. docs/gpu.md says what the figures mean.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.gpu import asking, prefill
from bench.gpu.run import FULL, QUICK, TINY, Bench, Measurement, Report, Sizes
from bench.gpu.shapes import SHAPES, build


def measurements(sizes: Sizes) -> list[Measurement]:
    """Everything, the most important first."""
    batch, carriers, questions = sizes.batches[0], sizes.carriers[0], sizes.questions[0]
    cells = [(cameras, live) for live in sizes.lives for cameras in sizes.batches]
    first = [(batch, live) for live in sizes.lives]
    return [
        ("ceilings", prefill.ceilings),
        *prefill.ways(),
        (f"vision, {batch} cameras", partial(prefill.vision, cameras=batch)),
        *(_cell(*each) for each in first),
        (f"time to first token, {carriers} carriers", partial(asking.first_token, carriers=carriers)),
        ("rules", asking.rules),
        (f"tokens a second, {questions} questions", partial(asking.speaking, questions=questions)),
        ("baseline: plain loop", asking.plain_loop),
        ("baseline: dense", asking.dense),
        ("baseline: ReKV-style", asking.retrieving),
        *(_cell(*each) for each in cells if each not in first),
        *((f"vision, {n} cameras", partial(prefill.vision, cameras=n)) for n in sizes.batches[1:]),
        *((f"time to first token, {n} carriers", partial(asking.first_token, carriers=n)) for n in sizes.carriers[1:]),
        *((f"tokens a second, {n} questions", partial(asking.speaking, questions=n)) for n in sizes.questions[1:]),
        ("peak memory", prefill.flat),
    ]


def _cell(cameras: int, live: int) -> Measurement:
    return f"ms a frame, {cameras} cameras, M={live}", partial(prefill.cell, cameras=cameras, live=live)


def main(
    shape: Annotated[str, typer.Option(help=" | ".join(SHAPES))] = "7b",
    quick: Annotated[bool, typer.Option(help="Fewer sizes and repetitions.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    seconds: Annotated[float, typer.Option(help="Begin nothing new after so many.")] = 480,
) -> None:
    """Print speed and memory of a model of this shape beside its baselines and the machine's ceilings."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"no shape {shape!r}; there are {', '.join(SHAPES)}")
    accelerated = torch.cuda.is_available()
    if not accelerated and shape != "tiny":
        raise typer.BadParameter(f"shape {shape} needs an NVIDIA accelerator, and torch sees none here; --shape tiny runs anywhere")
    sizes = TINY if shape == "tiny" else QUICK if quick else FULL
    device, dtype = (torch.device("cuda", 0), torch.bfloat16) if accelerated else (torch.device("cpu"), torch.float32)
    bench = Bench(backbone=build(shape, device, dtype), sizes=sizes, shape=shape)
    report = Report(bench, json_file, seconds)
    for what, measure in measurements(sizes):
        report.take(what, measure)
    report.print()
    if report.failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
