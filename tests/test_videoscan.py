"""VideoScan over small random models of every family: streaming, one masked pass and plain arithmetic all say the same.

The tests in float64 are to prove equality, so they take what rounds to float32 inside transformers (RMSNorm, the softmax of
eager attention) in float64 as well. Those in float32 run transformers as it is.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_arithmetic import plain_answer, plain_stream, whole_pass
from small_models import (
    DTYPES,
    EVERY_KIND,
    F32,
    ONE,
    Shape,
    backbone,
    bound,
    first_tokens,
    frames,
    kv,
    off,
    shapes,
    some_models,
    stream,
)

from model.batch import Batch
from model.context import Carriers, clip_pass
from model.relevance import Relevance
from model.videoscan import ForeignCarrier, VideoScan

# Streaming equals training


@DTYPES
@EVERY_KIND
@some_models
@given(shape=shapes(), count=st.integers(1, 6))
def test_streaming_gives_the_carriers_of_the_pass_that_trains(kind: str, dtype: torch.dtype, shape: Shape, count: int) -> None:
    b = backbone(replace(shape, kind=kind), dtype)
    film = frames(count, seed=shape.seed)
    streamed, _ = stream(VideoScan(b, live=count), film)
    with torch.inference_mode():
        made = clip_pass(b, b.see([frame.image for frame in film])[None])
    trained = torch.stack((made.keys[:, 0], made.values[:, 0])).permute(3, 1, 0, 2, 4)  # [frames, layers, 2, kv_heads, head_dim]
    assert off(kv(streamed), trained) < bound(dtype)


@DTYPES
@EVERY_KIND
@some_models
@given(shape=shapes(["frame-length"]), count=st.integers(1, 5), question=st.sampled_from(["?", "Was there a red car?"]))
def test_a_question_after_streaming_scores_as_in_one_masked_pass(
    kind: str, dtype: torch.dtype, shape: Shape, count: int, question: str
) -> None:
    b = backbone(replace(shape, kind=kind), dtype)
    film = frames(count, seed=shape.seed)
    scan = VideoScan(b, live=count)
    carriers, _ = stream(scan, film)
    with torch.inference_mode():
        logits, attention, _, _ = scan._ask(question, carriers)
        whole, looks = whole_pass(b, film, b.suffix(question))
    assert off(logits, whole[-1]) < bound(dtype)
    size, start = b.tokens_per_frame + 1, len(b.prefix)
    at_carriers = looks[:, :, -1, start : start + size * count][..., size - 1 :: size]  # [layers, heads, carriers]
    untaught = at_carriers.mean((0, 1))
    assert off(attention, untaught / untaught.sum()) < bound(dtype)
    heads = ((shape.layers - 1, shape.kv_heads * shape.groups - 1), (0, 0))
    taught = VideoScan(b.used(evidence_heads=heads))
    assert off(taught.judge([question], [carriers])[0].attention, (at_carriers[-1, -1] + at_carriers[0, 0]) / 2) < bound(dtype)
    (judged,) = scan.judge([question], [carriers])
    odds = whole[-1].double().softmax(-1)
    yes, no = (float(odds[first_tokens(b, word)].sum()) for word in ("yes", "no"))
    assert off(judged.probability, yes / (yes + no)) < bound(dtype)


@EVERY_KIND
@some_models
@given(shape=shapes(), limit=st.sampled_from([1, 2, 3, 5]), more=st.integers(1, 5))
def test_with_evictions_streaming_equals_plain_arithmetic(kind: str, shape: Shape, limit: int, more: int) -> None:
    b = backbone(replace(shape, kind=kind))
    film = frames(limit + more, seed=shape.seed)
    scan = VideoScan(b, live=limit)
    with torch.inference_mode():
        wanted, past, kept = plain_stream(b, film, limit)
        carriers, memory = stream(scan, film)
        assert off(kv(carriers), torch.stack([torch.stack([torch.stack(layer) for layer in each]) for each in wanted])) < 1e-12
        assert [carrier.key.at_ms for carrier in memory.carriers] == [film[i].captured_ms for i in kept]
        assert off(scan._ask("Is it?", memory.carriers)[0], plain_answer(b, past, limit, b.suffix("Is it?"))) < 1e-12


@DTYPES
@EVERY_KIND
@some_models
@given(shape=shapes(), lengths=st.lists(st.integers(0, 4), min_size=2, max_size=4))
def test_a_batch_of_unequal_memories_equals_one_camera_at_a_time(kind: str, dtype: torch.dtype, shape: Shape, lengths: list[int]) -> None:
    scan = VideoScan(backbone(replace(shape, kind=kind), dtype), live=4)
    films = [frames(n + 1, camera=f"cam-{i}", seed=shape.seed) for i, n in enumerate(lengths)]
    memories = [stream(scan, film[:-1])[1] for film in films]
    together = scan.prefill([film[-1] for film in films], memories)
    alone = [scan.prefill([film[-1]], [memory])[0] for film, memory in zip(films, memories, strict=True)]
    assert [c.key for c in together] == [c.key for c in alone]
    assert off(kv(together), kv(alone)) < bound(dtype)
    assert off([c.embedding for c in together], [c.embedding for c in alone]) < bound(dtype)


def test_a_memory_follows_the_policy_of_the_site_or_else_the_models() -> None:
    b = backbone(replace(ONE, layers=1), F32)
    film = frames(4)
    times = [frame.captured_ms for frame in film]
    scan = VideoScan(b.used(live_policy="recency"), live=3)
    other = VideoScan(scan.backbone, live=3, policy="uniform")
    assert [[c.key.at_ms for c in stream(each, film)[1].carriers] for each in (scan, other)] == [times[1:], [times[0], *times[2:]]]
    assert other.fingerprint == scan.fingerprint == VideoScan(b).fingerprint


# Carriers as values


def test_prefill_changes_neither_the_memories_nor_the_carriers_passed_in() -> None:
    scan = VideoScan(backbone(), live=3)
    film = frames(6)
    _, memory = stream(scan, film[:5])
    members = memory.carriers
    before = [(c.kv.tobytes(), c.embedding.tobytes()) for c in members]
    for c in members:
        c.kv.flags.writeable = c.embedding.flags.writeable = False
    (made,) = scan.prefill(film[5:], [memory])
    assert list(map(id, memory.carriers)) == list(map(id, members))
    assert [(c.kv.tobytes(), c.embedding.tobytes()) for c in members] == before
    assert not any(np.shares_memory(made.kv, c.kv) for c in members)


def test_carriers_of_a_batch_do_not_hold_one_another_in_memory() -> None:
    """A kept view of a batch's array would keep the whole batch alive for as long as one of its carriers lives."""
    b = backbone(ONE, F32)
    scan = VideoScan(b, live=3, relevance=Relevance.of(b))
    films = [frames(1, camera=f"cam-{i}") for i in range(4)]
    made = scan.prefill([film[0] for film in films], [scan.memory() for _ in films])
    for array in (a for c in made for a in (c.kv, c.embedding, c.vector)):
        assert array is not None
        owner = array
        while owner.base is not None and isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert owner.nbytes == array.nbytes


def test_a_carrier_is_named_after_its_frame_and_holds_the_mean_of_its_tokens() -> None:
    b = backbone()
    scan = VideoScan(b)
    (frame,) = frames(1, camera="dock")
    (carrier,) = scan.prefill([frame], [scan.memory()])
    assert (carrier.key.camera_id, carrier.key.at_ms, carrier.fingerprint) == ("dock", frame.captured_ms, scan.fingerprint)
    assert carrier.span.start_ms == carrier.span.end_ms == frame.captured_ms
    with torch.inference_mode():
        assert off(carrier.embedding, b.see([frame.image])[0].mean(0)) < 1e-12


def test_a_carrier_of_another_model_is_refused() -> None:
    scan = VideoScan(backbone(), live=4)
    own, _ = stream(scan, frames(3))
    foreign = [own[0], replace(own[1], fingerprint="0" * 16), own[2]]
    with pytest.raises(ForeignCarrier, match="0" * 16):
        scan.decode("?", foreign)
    with pytest.raises(ForeignCarrier, match="0" * 16):
        scan.judge(["?", "?"], [own, foreign])


# Answers


@EVERY_KIND
@some_models
@given(shape=shapes(["frame-length"]), count=st.integers(1, 3))
def test_an_answer_is_the_step_by_step_best_of_the_full_pass_without_a_cache(kind: str, shape: Shape, count: int) -> None:
    b = backbone(replace(shape, kind=kind, tied=False))
    scan = VideoScan(b, live=count)
    film = frames(count, seed=shape.seed)
    carriers, _ = stream(scan, film)
    text, said, sure = b.suffix("What is it?"), [], 1.0
    with torch.inference_mode():
        for _ in range(6):
            scores = whole_pass(b, film, [*text, *said])[0][-1].clone()
            if not said:  # no answer is without a word
                scores[b.tokenizer.eos_token_id] = -torch.inf
            odds = scores.softmax(-1)
            token = int(odds.argmax())
            sure *= float(odds[token])
            if token == b.tokenizer.eos_token_id:
                break
            said.append(token)
    decoded = scan.decode("What is it?", carriers, longest=6)
    assert decoded.text == b.words(said)
    assert decoded.probability == pytest.approx(sure, rel=1e-9)


def test_an_answer_has_a_word_and_ends_at_its_end_or_at_the_longest() -> None:
    b = backbone(ONE, F32)
    scan = VideoScan(b, live=2)
    carriers, _ = stream(scan, frames(2))
    passes: list[int] = []
    b.net.lm_head.register_forward_pre_hook(lambda *_: passes.append(1))
    scan.decode("?", carriers, longest=4)
    assert 4 <= len(passes) <= 5
    said = scan.decode("?", carriers, longest=1)
    b.net.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor([b.tokenizer.eos_token_id]), 1e4))
    short, batch = scan.decode("?", carriers), Batch[int](scan)
    assert short.text == said.text != "" and short.probability == pytest.approx(said.probability)
    assert not batch.turn({1: ("?", carriers)})[1].ended
    assert batch.turn({})[1].text == said.text and not batch.turn({})


def test_carriers_repeat_and_reorder_by_row() -> None:
    keys = torch.arange(24.0).reshape(1, 3, 1, 4, 2)
    sets = Carriers(keys=keys, values=-keys, counts=torch.tensor([1, 4, 2]))
    picked = sets.expand(torch.tensor([2, 0, 2]))
    assert picked.counts.tolist() == [2, 1, 2]
    assert torch.equal(picked.keys[:, 1], keys[:, 0])
    assert torch.equal(picked.values[:, 2], -keys[:, 2])
    assert picked.present.tolist() == [[True, True, False, False], [True, False, False, False], [True, True, False, False]]
