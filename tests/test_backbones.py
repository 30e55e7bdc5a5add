"""Every family of backbones: read like transformers itself while all is dense, then with carriers as VideoScan has them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import (
    DTYPES,
    EVERY_KIND,
    F32,
    LLAVA,
    PAD,
    PATCH,
    QWEN2,
    QWEN3,
    START,
    STOP,
    VIDEO,
    Shape,
    backbone,
    frames,
    kv,
    off,
    save,
    stream,
)
from transformers import AutoModelForImageTextToText, Qwen3VLProcessor, SiglipImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from model import dense
from model.backbone import Backbone
from model.backbones import FAMILIES, UnknownBackbone, family
from model.context import frame_block, masked_pass, streamed_pass
from model.decoding import greedy
from model.prompt import NoPlaceForVideo
from model.videoscan import ContextTooShort, VideoScan
from pipeline.core import Frame

PACE_S = 2


def written(b: Backbone, film: list[Frame], question: str) -> str:
    """The prompt as transformers' processors write it."""
    count = b.tokens_per_frame
    kind = b.net.config.model_type
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    text: str = b.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if kind == LLAVA:
        return text.replace(VIDEO, VIDEO * (len(film) * count + 1))
    if kind == QWEN2:
        return text.replace(PAD, PAD * (len(film) * count))
    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token=START,
        vision_end_token=STOP,
        video_token=PAD,
    )
    processor._calculate_timestamps = lambda *a: Qwen3VLProcessor._calculate_timestamps(processor, *a)
    twice = SimpleNamespace(fps=1 / PACE_S, frames_indices=[i for i in range(len(film)) for _ in range(2)])
    video = {"video_grid_thw": torch.tensor([[len(film), *(2 * n for n in b.family.grid)]]), "video_metadata": [twice]}
    return text.replace(PAD, Qwen3VLProcessor.replace_video_token(processor, video, 0))


def inputs(b: Backbone, film: list[Frame], question: str) -> dict[str, Any]:
    """What transformers' processors would hand to `generate`, each frame a still picture of the video."""
    ids = torch.tensor([b.tokenizer(written(b, film, question), add_special_tokens=False).input_ids])
    pictures = [frame.image for frame in film]
    told: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if b.net.config.model_type == LLAVA:
        height, width = b.family.size
        processor = SiglipImageProcessorPil(size={"height": height, "width": width})
        pixels = processor(pictures, return_tensors="pt")["pixel_values"]
        return told | {"pixel_values_videos": pixels[None].to(b.dtype)}
    processor = Qwen2VLImageProcessorPil(patch_size=PATCH, image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=1, max_pixels=1 << 20)
    seen = processor(pictures, return_tensors="pt")
    grid = torch.cat((torch.tensor([len(film)]), seen["image_grid_thw"][0, 1:]))[None]
    told |= {"pixel_values_videos": seen["pixel_values"].to(b.dtype), "video_grid_thw": grid}
    told |= {"mm_token_type_ids": (ids == b.net.config.video_token_id).int() * 2}
    return told | ({"second_per_grid_ts": torch.tensor([float(PACE_S)])} if b.net.config.model_type == QWEN2 else {})


@DTYPES
@EVERY_KIND
@pytest.mark.parametrize("count", [1, 4])
def test_the_words_over_whole_frames_are_those_of_generate(tmp_path: Path, kind: str, dtype: torch.dtype, count: int) -> None:
    shape = Shape(kind=kind, layers=3, head_dim=16, grid=5, tied=False, seed=3)
    save(backbone(shape, F32), tmp_path)
    b = Backbone.load(tmp_path, dtype=dtype)
    film = frames(count, size=b.family.size, apart_ms=1000 * PACE_S)
    told = inputs(b, film, "What is it?")
    net = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager").eval()
    wanted = net.generate(**told, min_new_tokens=1, max_new_tokens=12, do_sample=False)[0, told["input_ids"].shape[1] :].tolist()
    read = dense.read(b, "What is it?", film)
    with torch.inference_mode():
        tokens, _ = greedy(b, read.logits, read.cache, read.position, 12)
    assert tokens == [token for token in wanted if token not in b.ends]
    assert len(set(tokens)) > 2  # or the words would hardly show where anything stands
    with torch.inference_mode():
        assert off(read.logits, net(**told).logits[0, -1]) < (1e-5 if dtype == F32 else 1e-6)
    assert dense.decode(b, "What is it?", film, longest=12).text == b.words(tokens)
    assert len(read.attention) == count
    assert 0 < float(read.attention.sum()) < 1


@EVERY_KIND
def test_parts_read_one_after_the_other_are_the_whole(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    b, film = backbone(Shape(kind=kind)), frames(3)
    whole = dense.read(b, "Is it?", film)
    monkeypatch.setattr(dense, "PART", 5)
    parts = dense.read(b, "Is it?", film)
    assert off(parts.logits, whole.logits) < 1e-12
    assert off(parts.attention, whole.attention) < 1e-12


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        dense.decode(backbone(dtype=F32), "Is it?", [])


# Carriers


@EVERY_KIND
def test_a_carrier_is_the_mean_of_its_frames_tokens_deep_features_too(kind: str) -> None:
    b = backbone(Shape(kind=kind))
    with torch.inference_mode():
        tokens = b.see([frame.image for frame in frames(2)])
        block = frame_block(b, tokens)
    assert tokens.shape == (2, b.tokens_per_frame, b.hidden * (1 + b.family.deep))
    assert (b.family.deep > 0) == (kind == QWEN3)
    assert off(block[:, -1], tokens.sum(1) / b.tokens_per_frame) < 1e-12


@EVERY_KIND
def test_a_clip_gives_the_same_carriers_and_gradients_at_once_and_frame_by_frame(kind: str) -> None:
    b = backbone(Shape(kind=kind))
    with torch.no_grad():
        seen = b.see([frame.image for frame in frames(6)]).unflatten(0, (2, 3))
    results = []
    for streams in (False, True):
        tokens = seen.clone().requires_grad_(True)
        made = (streamed_pass if streams else masked_pass)(b, tokens)
        (made.keys.square().sum() + made.values.sin().sum()).backward()
        results.append((made.keys.detach(), made.values.detach(), tokens.grad))
    for masked, streamed in zip(*results, strict=True):
        assert off(masked, streamed) < 1e-12


@EVERY_KIND
def test_spacing_changes_what_is_remembered_and_the_fingerprint(kind: str) -> None:
    far, near = (VideoScan(backbone(Shape(kind=kind, spacing=spacing))) for spacing in ("frame-length", "unit"))
    film = frames(3)
    assert off(kv(stream(far, film)[0][:1]), kv(stream(near, film)[0][:1])) == 0  # the first frame has nothing behind it
    assert off(kv(stream(far, film)[0][2:]), kv(stream(near, film)[0][2:])) > 1e-4
    assert far.fingerprint != near.fingerprint


def test_more_carriers_than_positions_are_refused_with_a_way_out() -> None:
    b = backbone(Shape(grid=8), F32)
    assert VideoScan(b, live=400)
    with pytest.raises(ContextTooShort, match="600 carriers.*space by one"):
        VideoScan(b, live=600)
    assert VideoScan(backbone(Shape(grid=8, spacing="unit"), F32), live=600)


# Loading


@EVERY_KIND
def test_saved_and_loaded_it_is_the_same_model(tmp_path: Path, kind: str) -> None:
    b = backbone(Shape(kind=kind), F32)
    save(b, tmp_path)
    again = Backbone.load(tmp_path)
    assert (again.spec, again.habits, again.prefix, again.suffix("Is it?")) == (b.spec, b.habits, b.prefix, b.suffix("Is it?"))
    assert off(kv(stream(VideoScan(again), frames(3))[0]), kv(stream(VideoScan(b), frames(3))[0])) < 1e-6


def test_the_template_that_knows_of_pictures_is_read(tmp_path: Path) -> None:
    """Many folders hold two: that of the language model, with the tokenizer, and that of the whole, in `chat_template.json`."""
    b = backbone(dtype=F32)
    template = b.tokenizer.chat_template
    save(b, tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    told = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told | {"chat_template": "{{ messages[0]['content'] + '!' }}"}))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert Backbone.load(tmp_path).suffix("Is it?") == b.suffix("Is it?")


def test_a_template_without_a_place_for_frames_is_refused() -> None:
    b = backbone(dtype=F32)
    blind = b.tokenizer.__class__(tokenizer_object=b.tokenizer.backend_tokenizer, eos_token="<end>")
    blind.chat_template = "{% for m in messages %}{{ m['content'][1]['text'] }}{% endfor %}"
    with pytest.raises(NoPlaceForVideo, match=VIDEO):
        Backbone(b.net, blind).suffix("Is it?")


def test_an_unknown_family_is_refused_before_any_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(UnknownBackbone, match="'qwen2'.*llava_onevision.*qwen3_vl"):
        Backbone.load(tmp_path)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_that_is_named_is_there(kind: str) -> None:
    assert family(kind).__module__ == FAMILIES[kind].rpartition(".")[0]


def test_all_tokens_that_end_an_answer_end_it() -> None:
    b = backbone(dtype=F32)
    b.net.generation_config.eos_token_id = [7, 9]
    assert Backbone(b.net, b.tokenizer).ends == {7, 9, b.tokenizer.eos_token_id}
    b.net.generation_config.eos_token_id = None
    assert Backbone(b.net, b.tokenizer, replace(b.habits)).ends == {b.tokenizer.eos_token_id}
