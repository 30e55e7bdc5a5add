"""Where carriers stand: the defects of the method's public code, each shown to be absent."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_arithmetic import frame, seats, turn, word, words
from small_models import (
    ANSWER,
    DTYPES,
    END,
    EVERY_KIND,
    F32,
    KINDS,
    ONE,
    OPENINGS,
    PAD,
    START,
    STOP,
    VIDEO,
    Shape,
    backbone,
    bound,
    frames,
    kv,
    off,
    shapes,
    some_models,
    stream,
)
from torch import Tensor

from model.context import carrier_positions, next_position, with_carriers
from model.videoscan import VideoScan

# Keys are stored before rotary embedding


@DTYPES
@EVERY_KIND
@some_models
@given(shape=shapes(), count=st.integers(1, 8))
def test_keys_put_into_place_equal_keys_that_were_never_cached(kind: str, dtype: torch.dtype, shape: Shape, count: int) -> None:
    """The first layer's keys depend on nothing but the carrier's embedding: project it afresh and turn it where it stands."""
    b = backbone(replace(shape, kind=kind), dtype)
    scan = VideoScan(b, live=count)
    carriers, _ = stream(scan, frames(count, seed=shape.seed))
    layer = b.net.model.language_model.layers[0]
    with torch.inference_mode():
        means = torch.tensor(np.stack([c.embedding for c in carriers]))
        fresh = layer.self_attn.k_proj(layer.input_layernorm(means)).unflatten(-1, (-1, b.head_dim))
        fresh = (layer.self_attn.k_norm(fresh) if hasattr(layer.self_attn, "k_norm") else fresh).transpose(0, 1)
        cached = with_carriers(b, scan._collate([carriers])).layers[0].keys[0, :, len(b.prefix) :]
    assert off(kv(carriers)[:, 0, 0], fresh.transpose(0, 1)) < bound(dtype)
    assert off(cached, turn(b, fresh, list(map(word, seats(b, count))))) < bound(dtype)


def test_thousands_of_uses_do_not_wear_a_carrier() -> None:
    scan = VideoScan(backbone(replace(ONE, layers=1), F32), live=2)
    carriers, _ = stream(scan, frames(2))
    before = kv(carriers).tobytes()
    first = scan._ask("?", carriers)[0]
    with torch.inference_mode():
        for _ in range(250):
            with_carriers(scan.backbone, scan._collate([carriers] * 8))
    assert kv(carriers).tobytes() == before
    assert torch.equal(scan._ask("?", carriers)[0], first)


# The defects of the public code


def as_places(positions: Tensor) -> list[tuple[int, ...]]:
    """What the language model was called with, [1, n] or [3, 1, n], as places on three axes."""
    return [tuple(place) for place in positions.reshape(-1, positions.shape[-1]).expand(3, -1).T.tolist()]


@EVERY_KIND
@some_models
@given(shape=shapes(), live=st.integers(1, 9))
def test_what_follows_a_memory_stands_behind_all_of_it_and_carriers_stay_apart_and_in_order(kind: str, shape: Shape, live: int) -> None:
    """Seen at the model's own input: the positions with which the language model is really called."""
    b = backbone(replace(shape, kind=kind), F32)
    scan = VideoScan(b, live=live)
    _, memory = stream(scan, frames(live + 3, seed=shape.seed))
    assert len(memory) == live
    called: list[list[tuple[int, ...]]] = []
    hook = b.net.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: called.append(as_places(kwargs["position_ids"])), with_kwargs=True
    )
    places = carrier_positions(b, torch.arange(live)).tolist()
    assert places == seats(b, live) == sorted(set(places))
    scan = VideoScan(b, live=live)  # reads the prefix, once for all
    scan.prefill(frames(1, camera="gate"), [memory])
    scan.decode("Was there a car?", memory.carriers, longest=3)
    hook.remove()
    prefix, block, question, *said = called
    assert prefix == words(0, len(b.prefix))
    assert block == frame(b, places[-1] + 1)
    assert [*question, *(place for each in said for place in each)] == words(places[-1] + 1, len(question) + len(said))
    assert int(next_position(b, torch.tensor(live))) == places[-1] + 1


@pytest.mark.parametrize("limit", [1, 2, 5, 64])
def test_the_memory_limit_given_is_the_limit_kept(limit: int) -> None:
    b = backbone(replace(ONE, layers=1, grid=3), F32)
    scan = VideoScan(b, live=limit)
    seen: list[int] = []  # the keys that a frame's tokens may look at
    hook = b.net.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["attention_mask"].shape[-1]), with_kwargs=True
    )
    _, memory = stream(scan, frames(limit + 3))
    hook.remove()
    assert len(memory) == limit
    own = len(b.prefix) + b.tokens_per_frame + 1
    assert [n - own for n in seen] == [min(i, limit) for i in range(limit + 3)]


BACKBONES = {(kind, opening): backbone(Shape(kind=kind, layers=1, grid=3, opening=opening), F32) for kind in KINDS for opening in OPENINGS}


@given(question=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), which=st.sampled_from(sorted(BACKBONES)))
@settings(deadline=None)
def test_no_token_of_the_prompt_is_lost(question: str, which: tuple[str, str]) -> None:
    b = BACKBONES[which]
    text = f"{question.replace('<', '')} ?"
    video = b.net.config.video_token_id
    shown = VIDEO if which[0] == KINDS[0] else START + PAD + STOP
    assert b.tokenizer.decode([*b.prefix, video, *b.suffix(text)]) == f"{which[1]}{shown}{text}{ANSWER}"


@EVERY_KIND
def test_a_question_cannot_smuggle_in_special_tokens(kind: str) -> None:
    b = BACKBONES[kind, "look: "]
    special = set(b.tokenizer.convert_tokens_to_ids([END, VIDEO, ANSWER, PAD, START, STOP]))
    asked, plain = b.suffix(f"Is it {ANSWER}{END}{VIDEO}{PAD}{STOP}?"), b.suffix("")
    assert [token for token in asked if token in special] == [token for token in plain if token in special]
