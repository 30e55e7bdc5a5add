"""The accelerator bench at tiny shapes on whatever is here: every figure is taken, and what it counts is right."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from bench.gpu import prefill
from bench.gpu.__main__ import main, measurements
from bench.gpu.run import FULL, QUICK, TINY, Bench, NotHere, Report, Row, row
from bench.gpu.shapes import build, config, language_flops, vision_flops
from model.backbone import Backbone

CPU = torch.device("cpu")


@pytest.fixture
def tiny() -> Backbone:
    return build("tiny", CPU, torch.float32)


@pytest.fixture
def bench(tiny: Backbone) -> Bench:
    return Bench(backbone=tiny, sizes=TINY, shape="tiny")


def test_every_figure_is_taken(bench: Bench, tmp_path: Path) -> None:
    report = Report(bench, tmp_path / "gpu.json", 600)
    for what, measure in measurements(TINY):
        if "compiled" not in what:  # compiling takes a CPU minutes; tests/test_resident.py compiles
            report.take(what, measure)
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert not report.failed
    assert [each["what"] for each in told["missing"]] == ["peak memory"]
    assert all(0 < each["low"] <= each["median"] <= each["high"] for each in told["rows"])
    ways = [each for each in told["rows"] if "way to run" in each["what"]]
    assert len(ways) == 3 and all(each["also"]["off_by"] < 1e-5 for each in ways)
    whats = {each["what"] for each in told["rows"]}
    assert {"ms a frame, all", "time to first token", "tokens a second", "cameras x rules a second", "baseline: ms a frame, all"} <= whats


def test_what_fails_is_said_and_the_rest_goes_on(bench: Bench, tmp_path: Path) -> None:
    def broken(error: Exception) -> Iterator[Row]:
        yield row("before", "s", "ms", [1.0])
        raise error

    report = Report(bench, tmp_path / "gpu.json", 600)
    report.take("large", lambda _: broken(torch.cuda.OutOfMemoryError("CUDA out of memory")))
    report.take("elsewhere", lambda _: broken(NotHere("not on this machine")))
    assert not report.failed
    report.take("wrong", lambda _: broken(RuntimeError("device-side assert\nand more")))
    assert report.failed
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert len(told["rows"]) == 3
    reasons = {each["what"]: each["reason"] for each in told["missing"]}
    assert "does not fit" in reasons["large"] and reasons["elsewhere"] == "not on this machine"
    assert reasons["wrong"] == "failed: device-side assert"
    with pytest.raises(ZeroDivisionError):  # a mistake of the bench itself is no figure that is missing
        report.take("bug", lambda _: broken(ZeroDivisionError()))


def test_nothing_new_begins_when_time_is_up(bench: Bench) -> None:
    report = Report(bench, None, -1)
    report.take("late", prefill.ceilings)
    assert not report.rows and "out of time" in report.missing[0].reason


def test_a_way_that_computes_something_else_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    what, measure = prefill.ways()[0]
    report = Report(bench, None, 600)
    report.take(what, measure)
    monkeypatch.setattr("model.resident.rotate", lambda keys, cos, sin: keys)
    report.take(what, measure)
    assert len(report.rows) == 1 and "off the textbook's" in report.missing[0].reason


def test_large_shapes_are_refused_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    app = typer.Typer()
    app.command()(main)
    refused = CliRunner().invoke(app, ["--shape", "7b"], env={"COLUMNS": "200"})
    assert refused.exit_code == 2 and "needs an NVIDIA accelerator" in refused.output
    assert CliRunner().invoke(app, ["--shape", "70b"]).exit_code == 2


def test_the_operations_counted_are_those_that_torch_counts(bench: Bench, tiny: Backbone) -> None:
    """Counted by torch as it runs, with the score of every pair: masked ones as well, which `language_flops` leaves out."""
    resident = prefill.full_cameras(bench, 1, 5)
    pictures = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with FlopCounterMode(display=False) as seeing:
        tokens = resident.see(pictures)
    assert seeing.get_total_flops() == vision_flops(tiny)
    with torch.inference_mode(), FlopCounterMode(display=False) as reading:
        resident.remember(tokens, torch.tensor([0]), full=True)
    t, layers, hidden = tiny.tokens_per_frame + 1, tiny.config.num_hidden_layers, tiny.config.hidden_size
    unseen = t * (t - 1) // 2
    assert reading.get_total_flops() == language_flops(tiny, 5) + layers * 4 * unseen * hidden


def test_a_frame_of_the_large_shape_is_3_tflop() -> None:
    with torch.device("meta"):
        net = AutoModelForImageTextToText.from_config(config("7b"))
    large = Backbone(net, build("tiny", CPU, torch.float32).tokenizer)
    assert large.tokens_per_frame == 196 and len(large.prefix) == 14
    assert 7.9e9 < sum(p.numel() for p in net.parameters()) < 8.2e9
    assert 0.6e12 < vision_flops(large) < 0.8e12
    assert 2.5e12 < language_flops(large, 128) < 2.8e12


def test_random_weights_are_not_zeros(tiny: Backbone) -> None:
    assert all(w.std() > 0 for name, w in tiny.net.named_parameters() if w.ndim > 1 and "image_newline" not in name)


@pytest.mark.parametrize("sizes", [FULL, QUICK])
def test_the_most_important_comes_first(sizes: object) -> None:
    assert isinstance(sizes, type(FULL))
    names = [what for what, _ in measurements(sizes)]
    assert names[0] == "ceilings" and len(set(names)) == len(names)
    assert f"ms a frame, {sizes.batches[0]} cameras, M=128" in names[:8]
