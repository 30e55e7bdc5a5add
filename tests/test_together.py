"""Many questions in one batch are answered as one by one."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import F32, F64, ONE, Shape, backbone, first_tokens, frames, shapes, some_models, stream

from model.backbone import Backbone
from model.context import Carriers
from model.fast import fuse_attention
from model.together import Decoder
from model.videoscan import VideoScan
from pipeline.core import Carrier

QUESTIONS = ["Was there a car?", "Who?", "Is a truck at the dock now?"]


def collated(b: Backbone, sets: Sequence[Sequence[Carrier]]) -> Carriers:
    shape = (b.config.num_hidden_layers, len(sets), b.config.num_key_value_heads, max(map(len, sets)), b.head_dim)
    keys, values = torch.full(shape, 7.0, dtype=b.dtype), torch.full(shape, -7.0, dtype=b.dtype)  # padding that would show
    for i, carriers in enumerate(sets):
        kv = torch.tensor(np.stack([c.kv for c in carriers])).permute(2, 1, 3, 0, 4)
        keys[:, i, :, : len(carriers)], values[:, i, :, : len(carriers)] = kv
    return Carriers(keys=keys, values=values, counts=torch.tensor([len(s) for s in sets]))


def asked_together(b: Backbone, sizes: Sequence[int], fused: bool, bound: float) -> None:
    scan = VideoScan(b, live=3)
    sets = [stream(scan, frames(n, camera))[0] for n, camera in zip(sizes, ("gate", "lane", "dock"), strict=True)]
    one_by_one = [scan.decode(q, s, longest=5).text for q, s in zip(QUESTIONS, sets, strict=True)]
    judged = [[scan.judge(q, s).probability for q in QUESTIONS] for s in sets]
    if fused:
        fuse_attention(b)
    decoder, carriers, suffixes = Decoder(b, graphs=True), collated(b, sets), [b.suffix(q) for q in QUESTIONS]
    answers = decoder.answer(carriers, suffixes, longest=5)
    assert [b.words(tokens) for tokens in answers] == one_by_one
    together = decoder.judge(carriers, suffixes, first_tokens(b, "yes"), first_tokens(b, "no"))
    assert np.abs(together.numpy() - np.array(judged)).max() < bound


@some_models
@given(shapes(), st.lists(st.integers(1, 5), min_size=3, max_size=3), st.booleans())
def test_together_is_as_one_by_one(shape: Shape, sizes: list[int], fused: bool) -> None:
    asked_together(backbone(shape), sizes, fused, 1e-10)


def test_the_same_in_float32() -> None:
    asked_together(backbone(ONE, F32), [4, 1, 3], True, 1e-5)


@pytest.mark.parametrize("ends", [[0], [0, 2]])
def test_an_answer_that_ends_is_cut_and_the_others_go_on(ends: list[int]) -> None:
    b = backbone(ONE, F64)
    scan, calls = VideoScan(b, live=2), [0]
    carriers = collated(b, [stream(scan, frames(2))[0]] * 3)

    def end(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        logits = logits.index_fill(-1, torch.tensor([b.tokenizer.eos_token_id]), -1e9)
        if calls[0] == 2:
            logits[ends] = logits[ends].index_fill(-1, torch.tensor([b.tokenizer.eos_token_id]), 1e9)
        return logits

    b.net.lm_head.register_forward_hook(end)
    answers = Decoder(b).answer(carriers, [b.suffix(q) for q in QUESTIONS], longest=4)
    assert [len(a) for a in answers] == [1 if i in ends else 4 for i in range(3)]
