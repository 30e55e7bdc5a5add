"""The real backbones on torch's meta device: shapes without weights."""

import pytest
import torch
from real_configurations import real
from small_models import LLAVA

from model.context import carrier_positions, next_position
from model.videoscan import VideoScan


@pytest.mark.parametrize(
    ("name", "billions", "tokens", "length", "layers", "carrier_bytes"),
    [
        ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 0.89, 196, 197, 24, 12_288 + 3_584),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8.03, 196, 197, 28, 57_344 + 14_336),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8.29, 180, 19, 28, 57_344 + 14_336),
        ("Qwen/Qwen3-VL-8B-Instruct", 8.77, 180, 19, 36, 147_456 + 16_384),
    ],
)
def test_shapes_and_sizes(name: str, billions: float, tokens: int, length: int, layers: int, carrier_bytes: int) -> None:
    b = real(name)
    assert round(sum(weights.numel() for weights in b.net.parameters()) / 1e9, 2) == billions
    assert (b.tokens_per_frame, b.frame_length, b.spec.layers, b.spec.carrier_bytes) == (tokens, length, layers, carrier_bytes)
    assert b.block.shape[-1] == tokens + 1
    scan = VideoScan(b, live=64)  # or it would say that the positions do not suffice
    assert len(scan.fingerprint) == 16
    assert int(carrier_positions(b, torch.tensor(127))) == int(next_position(b, torch.tensor(128))) - 1 == len(b.prefix) + 128 * length - 1
    pixels = torch.empty(2, 3, *b.family.size, dtype=torch.bfloat16, device="meta")
    if b.net.config.model_type == LLAVA:  # the others' towers need the numbers of their grids
        assert b.project(b.look(pixels)).shape == (2, tokens, b.hidden)
    same = real(name)
    assert same.spec == b.spec
    config = b.net.config.__class__.from_dict(b.net.config.to_dict())
    config.text_config.rms_norm_eps = 1e-3
    assert real(name, config).spec.fingerprint != b.spec.fingerprint
