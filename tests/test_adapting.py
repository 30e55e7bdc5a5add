"""Training of adapters: each stage teaches what it should and no more, and what is broken off is gone on with."""

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from small_models import EVERY_KIND, F32, LLAVA, Shape, backbone, frames, save, stream

from model.adapter import BadAdapter
from model.adapting.clips import Asked, Clip
from model.adapting.learning import Diverged, Learning, Told
from model.adapting.progress import CannotResume, Recipe
from model.adapting.stages import STAGES, answer_loss, loss
from model.backbone import Backbone
from model.context import Carriers
from model.habits import Spacing
from model.videoscan import VideoScan

RECIPE = Recipe(stages=(1, 2), steps=4, batch=2, rate=1e-3, rank=4, alpha=8)


class Coloured:
    """Clips of three frames in one of two colours, with what is to be said of them."""

    def __len__(self) -> int:
        return 5

    def clip(self, index: int) -> Clip:
        noise = np.random.default_rng(index).integers(0, 60, (3, 24, 32, 3), np.uint8)
        asked = (Asked(question="Is it bright?", answer=("yes", "no")[index % 2]), Asked(question="Dark?", answer="no no", over=(0, 2)))
        return Clip(frames=[picture + np.uint8(180 * (index % 2 == 0)) for picture in noise], asked=asked)


def saved(folder: Path, kind: str = LLAVA, seed: int = 1) -> Path:
    """A small model in a folder of its own."""
    save(backbone(Shape(kind=kind, seed=seed), F32), folder)
    return folder


def learn(base: Path, out: Path, recipe: Recipe = RECIPE, *, resume: bool = False, stop_after: int | None = None) -> list[Told]:
    told: list[Told] = []

    def tell(one: Told) -> None:
        told.append(one)
        if len(told) == stop_after:
            raise KeyboardInterrupt

    Learning(Backbone.load(base), Coloured(), recipe, out, resume=resume).run(tell, save_every=1)
    return told


def test_an_adapter_is_all_it_takes_to_read_carriers(tmp_path: Path) -> None:
    base, out = saved(tmp_path / "base"), tmp_path / "out"
    (base / "longwatch.json").unlink()  # as published
    Learning(Backbone.load(base, mode="carriers"), Coloured(), replace(RECIPE, stages=(2,), steps=1), out).run(lambda told: None)
    assert Backbone.load(base).habits.mode == "training-free"
    taught = Backbone.load(base, adapter=out)
    assert (taught.habits.mode, taught.patches, taught.spec.method) == ("carriers", 0, "videoscan-1")


@EVERY_KIND
@pytest.mark.parametrize("stage", [1, 2])
def test_the_loss_falls_and_only_what_the_stage_teaches_has_changed(kind: str, stage: int, tmp_path: Path) -> None:
    base = Backbone.load(saved(tmp_path / "base", kind))
    before = {name: weights.clone() for name, weights in base.net.named_parameters()}
    learning = Learning(base, Coloured(), replace(RECIPE, stages=(stage,), steps=12, rate=1e-2), tmp_path / "out")
    told: list[Told] = []
    learning.run(told.append)
    assert told[-1].loss < 0.8 * told[0].loss

    taught = {name for name, weights in base.net.named_parameters() if "lora_B" in name and weights.any()}
    parts = {part for part in (base.family.tower, "model.language_model.layers") if any(name.startswith(part) for name in taught)}
    assert parts == ({base.family.tower, "model.language_model.layers"} if stage == 1 else {"model.language_model.layers"})
    assert all(name.startswith(tuple(parts)) for name in taught)
    plain = {name.replace(".base_layer", ""): weights for name, weights in base.net.named_parameters() if "lora_" not in name}
    assert plain.keys() == before.keys() and all(torch.equal(plain[name], before[name]) for name in before)


def test_the_second_stage_leaves_the_tower_as_the_first_taught_it(tmp_path: Path) -> None:
    base, towers = Backbone.load(saved(tmp_path / "base")), []
    learning = Learning(base, Coloured(), RECIPE, tmp_path / "out")
    lora = {name: weights for name, weights in base.net.named_parameters() if name.startswith(base.family.tower) and "lora_" in name}
    learning.run(lambda _: towers.append(torch.cat([weights.detach().flatten() for weights in lora.values()])))
    assert not torch.equal(towers[0], towers[3]) and torch.equal(towers[3], towers[-1])


def test_a_stage_that_comes_first_begins_as_the_backbone_is(tmp_path: Path) -> None:
    """Fresh adapters add nothing, so what is learnt starts from what was there."""
    folder, clip = saved(tmp_path / "base"), Coloured().clip(0)
    plain, adapted = Backbone.load(folder), Backbone.load(folder)
    Learning(adapted, Coloured(), RECIPE, tmp_path / "out")
    for stage in STAGES.values():
        a, b = (loss(each, stage, clip, Random(1)).item() for each in (plain, adapted))
        assert a == pytest.approx(b, rel=1e-5)


@EVERY_KIND
@pytest.mark.parametrize(("spacing", "patches"), [("frame-length", 0), ("unit", 0), ("frame-length", 2)])
def test_the_second_stage_asks_over_what_streaming_gives(
    kind: str, spacing: Spacing, patches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Carriers, "faded", lambda self: self)  # as long as nothing is lost
    scan = VideoScan(b := backbone(Shape(kind=kind, spacing=spacing, patches=patches)))
    film = frames(4)
    carriers, _ = stream(scan, film)
    asked = (Asked(question="Who came?", answer="yes", over=(0, 2)), Asked(question="Now?", answer="no no", over=(1, 2, 3)))
    streamed = answer_loss(b, scan._collate([[carriers[i] for i in each.over or ()] for each in asked]), asked)
    trained = loss(b, STAGES[2], Clip(frames=[frame.image for frame in film], asked=asked), Random(0))
    assert trained.item() == pytest.approx(streamed.item(), rel=1e-9)


@pytest.mark.parametrize("stop_after", [2, 4, 6])  # within stage 1, between the stages, within stage 2
def test_a_resumed_training_equals_an_unbroken_one(stop_after: int, tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    whole = learn(base, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learn(base, tmp_path / "broken", stop_after=stop_after)
    rest = learn(base, tmp_path / "broken", resume=True)
    assert rest == whole[stop_after - 1 :]  # it was broken off before the step was saved
    for name in ("adapter_model.safetensors", "training.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


def test_only_the_same_training_is_resumed(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    with pytest.raises(CannotResume, match="no training to go on with"):
        learn(base, tmp_path / "out", resume=True)
    learn(base, tmp_path / "out", replace(RECIPE, steps=1))
    with pytest.raises(CannotResume, match="rank was 4, not 2"):
        learn(base, tmp_path / "out", replace(RECIPE, steps=1, rank=2), resume=True)
    with pytest.raises(CannotResume, match="model was"):
        learn(saved(tmp_path / "other", seed=2), tmp_path / "out", replace(RECIPE, steps=1), resume=True)
    (tmp_path / "out/training.safetensors").write_bytes(b"damaged")
    with pytest.raises(CannotResume, match="is damaged"):
        learn(base, tmp_path / "out", replace(RECIPE, steps=1), resume=True)


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path) -> None:
    base = Backbone.load(saved(tmp_path / "base"))
    base.net.lm_head.weight.data[:] = torch.nan
    with pytest.raises(Diverged, match="stage 1, step 1: the loss is nan"):
        Learning(base, Coloured(), RECIPE, tmp_path / "out").run()
    assert not (tmp_path / "out/adapter_model.safetensors").exists()


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_an_adapter_is_merged_and_is_part_of_the_fingerprint(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", kind)
    learning = Learning(trained := Backbone.load(base), Coloured(), replace(RECIPE, rate=1e-2), tmp_path / "out")
    learning.run()
    trained.net.eval()
    plain, merged = Backbone.load(base, dtype=dtype), Backbone.load(base, dtype=dtype, adapter=tmp_path / "out")
    with torch.inference_mode():
        near, far = (
            float(loss(trained, STAGES[2], Coloured().clip(0), Random(1)) - loss(b, STAGES[2], Coloured().clip(0), Random(1)))
            for b in (merged, plain)
        )
    assert abs(near) < (1e-5 if dtype == torch.float32 else 2e-2) < abs(far)
    assert merged.dtype == dtype and not [name for name, _ in merged.net.named_parameters() if "lora_" in name]
    assert merged.spec.backbone.startswith(Backbone.load(base).spec.backbone)
    assert merged.spec.fingerprint == Backbone.load(base, dtype=dtype, adapter=tmp_path / "out").spec.fingerprint
    assert merged.spec.fingerprint != plain.spec.fingerprint


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    learn(base, tmp_path / "out", replace(RECIPE, steps=1))
    with pytest.raises(BadAdapter, match=f"was trained on {base} .*use that model"):
        Backbone.load(saved(tmp_path / "other", seed=2), adapter=tmp_path / "out")
    with pytest.raises(BadAdapter, match="lacks adapter_config.json and adapter_model.safetensors"):
        Backbone.load(base, adapter=tmp_path / "base")
    (tmp_path / "out/adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadAdapter, match="is damaged"):
        Backbone.load(base, adapter=tmp_path / "out")


def test_half_precision_learns_with_adapters_in_full(tmp_path: Path) -> None:
    """As on a GPU: the backbone in bfloat16."""
    base = saved(tmp_path / "base")
    told: list[Told] = []
    learning = Learning(trained := Backbone.load(base, dtype=torch.bfloat16), Coloured(), replace(RECIPE, rate=1e-2), tmp_path / "out")
    learning.run(told.append)
    assert told[-1].loss < told[0].loss
    assert {weights.dtype for weights in trained.net.parameters() if weights.requires_grad} == {F32}
    for dtype in (torch.bfloat16, torch.float16, F32):
        merged = Backbone.load(base, dtype=dtype, adapter=tmp_path / "out")
        assert {weights.dtype for weights in merged.net.parameters()} == {dtype}
        assert merged.net.model.language_model.rotary_emb.inv_freq.dtype == F32
        assert loss(merged, STAGES[2], Coloured().clip(0), Random(1)).item() == pytest.approx(told[-1].loss, rel=0.3)
