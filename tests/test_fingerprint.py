"""What must change a model's fingerprint, and what must not."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from small_models import EVERY_KIND, F32, LLAVA, ONE, QWEN2, QWEN3, Shape, backbone, frames, kv, off, save, stream, tokenizer
from transformers import AutoModelForImageTextToText

from model.backbone import Backbone
from model.habits import Habits
from model.spec import ModelSpec
from model.videoscan import VideoScan

SPEC = ModelSpec(
    backbone="b",
    dtype="float32",
    layers=1,
    kv_heads=1,
    head_dim=8,
    hidden=8,
    tokens_per_frame=4,
    rope_theta=1e4,
    preprocessing="p",
    prompt="q",
)


@pytest.mark.parametrize("name", [f.name for f in fields(ModelSpec)])
def test_the_fingerprint_changes_with_every_field(name: str) -> None:
    value = getattr(SPEC, name)
    other = replace(SPEC, **{name: f"{value}'" if isinstance(value, str) else value + 1})
    assert other.fingerprint != SPEC.fingerprint
    assert replace(SPEC).fingerprint == SPEC.fingerprint


def test_models_without_patches_keep_the_name_they_had_before_there_were_any() -> None:
    assert SPEC.fingerprint == "8aae1d26ca343f87"


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_carriers_bytes_are_those_that_the_spec_tells(kind: str, dtype: torch.dtype) -> None:
    scan = VideoScan(backbone(Shape(kind=kind), dtype))
    (carrier,) = scan.prefill(frames(1), [scan.memory()])
    assert carrier.kv.nbytes + carrier.embedding.nbytes == scan.backbone.spec.carrier_bytes


@EVERY_KIND
def test_the_fingerprint_changes_with_a_weight_of_any_tensor(kind: str) -> None:
    b = backbone(Shape(kind=kind, layers=1), F32)
    unchanged = b.spec.fingerprint
    for name, weights in b.net.state_dict().items():
        for place in {0, weights.numel() // 2, weights.numel() - 1}:
            flat = weights.view(-1)
            kept = flat[place].clone()
            flat[place] += 1e-3
            changed = Backbone(b.net, b.tokenizer, b.habits).spec.fingerprint
            assert changed != unchanged, (name, place)
            flat[place] = kept
    assert Backbone(b.net, b.tokenizer, b.habits).spec.fingerprint == unchanged


def test_the_fingerprint_changes_when_two_weights_change_places() -> None:
    b = backbone(ONE, F32)
    flat = b.net.state_dict()["model.language_model.layers.0.self_attn.k_proj.weight"].view(-1)
    before = b.spec.fingerprint
    flat[[-1, -2]] = flat[[-2, -1]]
    assert Backbone(b.net, b.tokenizer, b.habits).spec.fingerprint != before


def test_the_fingerprint_changes_with_the_last_bit_of_a_weight() -> None:
    b = backbone(ONE, F32)
    flat = b.net.state_dict()["model.language_model.embed_tokens.weight"].view(-1)
    flat[-1] = 1e-12
    before = Backbone(b.net, b.tokenizer, b.habits).spec.fingerprint
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(1.0))
    assert Backbone(b.net, b.tokenizer, b.habits).spec.fingerprint != before


@pytest.mark.parametrize(
    ("kind", "where", "name", "value"),
    [
        (LLAVA, "text_config", "rms_norm_eps", 0.1),
        (LLAVA, "text_config", "hidden_act", "relu"),
        (LLAVA, "vision_config", "layer_norm_eps", 0.1),
        (LLAVA, "vision_config", "hidden_act", "relu"),
        (LLAVA, "", "vision_feature_layer", -2),
        (LLAVA, "", "projector_hidden_act", "relu"),
        (QWEN2, "text_config", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}),
        (QWEN2, "vision_config", "window_size", 8),
        (QWEN2, "vision_config", "fullatt_block_indexes", [2]),
        (QWEN3, "text_config", "rope_parameters", {"rope_type": "default", "rope_theta": 2e4, "mrope_section": [2, 1, 1]}),
        (QWEN3, "vision_config", "deepstack_visual_indexes", [1, 0]),
    ],
)
def test_the_fingerprint_changes_with_every_setting_that_changes_a_carrier(kind: str, where: str, name: str, value: Any) -> None:
    b = backbone(Shape(kind=kind, grid=7), F32)
    config = b.net.config.__class__.from_dict(b.net.config.to_dict())
    setattr(getattr(config, where) if where else config, name, value)
    net = AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)
    net.load_state_dict(b.net.state_dict())
    net.set_attn_implementation("eager")
    one, other = VideoScan(b), VideoScan(Backbone(net, b.tokenizer, b.habits))
    assert off(kv(stream(one, frames(2))[0]), kv(stream(other, frames(2))[0])) > 1e-4  # or the setting would not matter
    assert one.fingerprint != other.fingerprint


@EVERY_KIND
def test_the_fingerprint_changes_with_words_pictures_and_spacing(kind: str) -> None:
    b = backbone(Shape(kind=kind), F32)
    others = [
        Backbone(b.net, tokenizer(kind, "You are shown "), b.habits),
        Backbone(b.net, b.tokenizer, b.habits, ([0.5, 0.5, 0.4], [0.5] * 3)),
        Backbone(b.net, b.tokenizer, b.habits, ([0.5] * 3, [0.5, 0.5, 0.4])),
        b.used(spacing="unit"),
    ]
    if kind != LLAVA:
        others.append(b.used(grid=(3, 2)))
    assert len({each.spec.fingerprint for each in (b, *others)}) == 1 + len(others)


def test_the_fingerprint_does_not_change_with_how_a_model_is_used() -> None:
    b = backbone(ONE, F32)
    assert Backbone(b.net, b.tokenizer, replace(b.habits, live=3, live_policy="uniform", budget=9, evidence_heads=((0, 0),))).spec == b.spec


def test_an_unknown_spacing_or_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="'far'.*frame-length, unit"):
        Habits(spacing="far")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'best'.*paper, recency, uniform, merge"):
        Habits(live_policy="best")  # type: ignore[arg-type]


def test_all_habits_are_saved(tmp_path: Any) -> None:
    habits = Habits(live=2, live_policy="merge", patches="all", budget=7, evidence_heads=((1, 0), (0, 0)), spacing="unit", grid=(3, 5))
    b = Backbone(backbone(ONE, F32).net, tokenizer(), habits, ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    save(b, tmp_path)
    again = Backbone.load(tmp_path)
    assert (again.spec, again.habits) == (b.spec, habits)
