"""Many questions in one batch are answered as one by one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import (
    DTYPES,
    EVERY_KIND,
    F32,
    F64,
    ONE,
    Shape,
    backbone,
    bound,
    first_tokens,
    frames,
    off,
    shapes,
    some_models,
    stream,
)

from model.backbone import Backbone
from model.batch import Batch, Said
from model.context import Carriers, prefix_cache
from model.decoding import read
from model.fast import fuse_attention
from model.together import Answering, judge
from model.videoscan import ForeignCarrier, VideoScan
from pipeline.core import Carrier

LONGEST = 7
CAMERAS = ("gate", "lane", "dock")
QUESTIONS = ["Was there a car?", "Who?", "Is a truck at the dock now?"]


def collated(b: Backbone, sets: Sequence[Sequence[Carrier]]) -> Carriers:
    shape = (b.config.num_hidden_layers, len(sets), b.config.num_key_value_heads, max(map(len, sets)), b.head_dim)
    keys, values = torch.full(shape, 7.0, dtype=b.dtype), torch.full(shape, -7.0, dtype=b.dtype)  # padding that would show
    for i, carriers in enumerate(sets):
        kv = torch.tensor(np.stack([c.kv for c in carriers])).permute(2, 1, 3, 0, 4)
        keys[:, i, :, : len(carriers)], values[:, i, :, : len(carriers)] = kv
    return Carriers(keys=keys, values=values, counts=torch.tensor([len(s) for s in sets]))


@some_models
@given(shapes(), st.lists(st.integers(1, 5), min_size=3, max_size=3), st.booleans())
def test_rules_judged_together_are_judged_as_one_by_one(shape: Shape, sizes: list[int], fused: bool) -> None:
    judged_together(backbone(shape), sizes, fused, 1e-10)


def test_rules_in_float32() -> None:
    judged_together(backbone(ONE, F32), [4, 1, 3], True, 1e-5)


def judged_together(b: Backbone, sizes: Sequence[int], fused: bool, bound: float) -> None:
    scan = VideoScan(b, live=3)
    sets = [stream(scan, frames(n, camera))[0] for n, camera in zip(sizes, CAMERAS, strict=True)]
    alone = [[scan.judge([q], [s])[0].probability for q in QUESTIONS] for s in sets]
    if fused:
        fuse_attention(b)
    suffixes = [b.suffix(q) for q in QUESTIONS]
    together = judge(b, collated(b, sets), suffixes, first_tokens(b, "yes"), first_tokens(b, "no"), prefix_cache(b, 1))
    assert np.abs(together.numpy() - np.array(alone)).max() < bound


# Answers


@dataclass(frozen=True)
class Asker:
    """Somebody who asks at some turn over some frames, and may hang up some turns later."""

    question: str
    turn: int
    frames: int
    hangs_up: int | None


askers = st.builds(
    Asker,
    question=st.sampled_from(QUESTIONS),
    turn=st.integers(0, 5),
    frames=st.integers(1, 5),
    hangs_up=st.none() | st.integers(1, 6),
)


def run(batch: Batch[int], asked: Sequence[Asker], sets: Sequence[Sequence[Carrier]]) -> list[list[Said]]:
    """What everybody heard, turn by turn, while they came and went."""
    heard: list[list[Said]] = [[] for _ in asked]
    for turn in range(60):
        leaving = [i for i, one in enumerate(asked) if len(heard[i]) == one.hangs_up]
        joining = {i: (one.question, sets[i]) for i, one in enumerate(asked) if one.turn == turn}
        for i, said in batch.turn(joining, leaving).items():
            heard[i].append(said)
    return heard


@DTYPES
@EVERY_KIND
@some_models
@given(shape=shapes(), asked=st.lists(askers, min_size=2, max_size=5))
def test_whoever_comes_and_goes_every_answer_is_as_if_asked_alone(kind: str, dtype: torch.dtype, shape: Shape, asked: list[Asker]) -> None:
    scan = VideoScan(backbone(replace(shape, kind=kind, tied=False), dtype), live=3)
    sets = [stream(scan, frames(one.frames, f"cam-{i}"))[0] for i, one in enumerate(asked)]
    alone = [scan.decode(one.question, each, longest=LONGEST) for one, each in zip(asked, sets, strict=True)]
    heard = run(Batch(scan, longest=LONGEST), asked, sets)
    for one, wanted, turns in zip(asked, alone, heard, strict=True):
        assert [said.ended for said in turns] == [False] * (len(turns) - 1) + [one.hangs_up is None or turns[-1].ended]
        assert all(off(said.attention, wanted.attention) < bound(dtype) for said in turns)
        assert all(later.text.startswith(said.text) or "\ufffd" in said.text for said, later in pairwise(turns))
        if turns[-1].ended:
            assert turns[-1].text == wanted.text
            assert off(turns[-1].probability, wanted.probability) < bound(dtype)
        else:
            assert len(turns) == one.hangs_up


def test_an_answer_that_ends_is_cut_and_the_others_go_on() -> None:
    b = backbone(ONE, F64)
    scan, calls = VideoScan(b, live=2), [0]
    carriers, _ = stream(scan, frames(2))

    def end(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        logits = logits.index_fill(-1, torch.tensor([b.tokenizer.eos_token_id]), -1e9)
        if calls[0] == 2:
            logits[[0, 2]] = logits[[0, 2]].index_fill(-1, torch.tensor([b.tokenizer.eos_token_id]), 1e9)
        return logits

    b.net.lm_head.register_forward_hook(end)
    batch: Batch[int] = Batch(scan, longest=4)
    heard = [batch.turn({i: (q, carriers) for i, q in enumerate(QUESTIONS)}), *(batch.turn({}) for _ in range(4))]
    ended = [{i: said.ended for i, said in turn.items()} for turn in heard]
    assert ended == [{0: False, 1: False, 2: False}, {0: True, 1: False, 2: True}, {1: False}, {1: True}, {}]
    assert all(heard[1][i].text == heard[0][i].text for i in (0, 2)) and len(b.tokenizer(heard[3][1].text).input_ids) >= 4


def test_a_foreign_carrier_is_refused_and_nobody_else_notices() -> None:
    scan = VideoScan(backbone(), live=2)
    carriers, _ = stream(scan, frames(2))
    alone = scan.decode("Who?", carriers, longest=4)
    batch: Batch[str] = Batch(scan, longest=4)
    batch.turn({"a": ("Who?", carriers)})
    with pytest.raises(ForeignCarrier):
        batch.turn({"b": ("Who?", [replace(carriers[0], fingerprint="0" * 16)])})
    told = [batch.turn({})["a"] for _ in range(3)]
    assert (told[-1].text, told[-1].ended) == (alone.text, True)
    assert told[-1].probability == pytest.approx(alone.probability)


def test_a_batch_that_is_always_busy_does_not_grow() -> None:
    """Columns of those who left are given up: what is held is bounded by who is there, whatever has been said before."""
    b = backbone(ONE, F32)
    scan = VideoScan(b, live=2)
    carriers, _ = stream(scan, frames(2))
    batch: Batch[int] = Batch(scan, longest=3)
    widths: list[int] = []
    b.net.model.language_model.layers[0].register_forward_hook(
        lambda _, __, kwargs, ___: widths.append(kwargs["attention_mask"].shape[-1]), with_kwargs=True
    )
    for turn in range(120):
        batch.turn({turn: ("Who?", carriers)})
    assert max(widths) <= 2 * max(widths[:8])


@some_models
@given(shapes(), st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_fused_attention_and_graphs_say_the_same(shape: Shape, sizes: list[int]) -> None:
    b = backbone(replace(shape, tied=False))
    scan = VideoScan(b, live=3)
    sets = [stream(scan, frames(n, camera))[0] for n, camera in zip(sizes, CAMERAS, strict=True)]
    alone = [scan.decode(q, s, longest=5).text for q, s in zip(QUESTIONS, sets, strict=True)]
    fuse_attention(b)
    answering = Answering(b, graphs=True)
    answering.join(read(b, collated(b, sets), [b.suffix(q) for q in QUESTIONS], prefix_cache(b, 1)))
    spoken = [answering.tokens.tolist(), *(answering.next().tolist() for _ in range(4))]
    answers = [[int(token) for token in row] for row in zip(*spoken, strict=True)]
    ends = [next((i for i, token in enumerate(row) if token in b.ends), len(row)) for row in answers]
    assert [b.words(row[:end]) for row, end in zip(answers, ends, strict=True)] == alone
