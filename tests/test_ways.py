"""The base and the broken methods that carriers are measured against are what they are said to be."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import nn
from transformers import DynamicCache

from bench.ways import Film, by_carriers, by_frames, compare, newest, positions_as_in_the_public_code, without_embedding, without_kv
from model import context, embedded
from model.backbone import Backbone
from model.context import embedding_pass
from model.dense_training import losses
from model.examples import Batch
from model.probe import Probe
from model.videoscan import VideoScan
from pipeline.core import Frame
from simulator.visits import CAMERAS

PLACES = [(CAMERAS[0], 0), (CAMERAS[1], 0), (CAMERAS[0], 1), (CAMERAS[0], 2), (CAMERAS[1], 2)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(embedded.FOLDER)


@pytest.fixture(scope="module")
def film() -> Film:
    r = np.random.default_rng(1)
    pictures = r.integers(0, 256, (4, len(CAMERAS), 128, 128, 3), np.uint8)
    return [
        [Frame(camera_id=c, pts_ns=s, captured_ms=1000 * s + i, image=pictures[s, i]) for i, c in enumerate(CAMERAS)]
        for s in range(len(pictures))
    ]


def test_the_newest_are_each_cameras() -> None:
    assert newest(PLACES, 1) == [(CAMERAS[0], 2), (CAMERAS[1], 2)]
    assert newest(PLACES, 2) == [(CAMERAS[1], 0), (CAMERAS[0], 1), (CAMERAS[0], 2), (CAMERAS[1], 2)]
    assert newest(PLACES, None) == PLACES


def test_each_way_says_where_it_looked(backbone: Backbone, film: Film) -> None:
    for way, looked_at in ((by_carriers("all", VideoScan(backbone)), PLACES), (by_frames("last", backbone, last=1), PLACES[-2:])):
        decoded, keys = way.watch(film)("Is there a car?", PLACES)
        assert [(key.camera_id, key.at_ms // 1000) for key in keys] == looked_at
        assert decoded.text and len(decoded.attention) == len(keys)


@pytest.mark.parametrize("broken", [without_embedding, without_kv, positions_as_in_the_public_code])
def test_what_is_broken_is_whole_again_afterwards(
    broken: Callable[[], AbstractContextManager[None]], backbone: Backbone, film: Film
) -> None:
    scan = VideoScan(backbone)
    memories = [scan.memory() for _ in CAMERAS]
    for memory, carrier in zip(memories, scan.prefill(film[0], memories), strict=True):
        memory.add(carrier)
    whole = scan.prefill(film[1], memories)
    with broken():
        other = scan.prefill(film[1], memories)
    again = scan.prefill(film[1], memories)
    assert all(np.abs(a.kv - b.kv).max() > 0.01 for a, b in zip(whole, other, strict=True))
    assert all((a.kv == b.kv).all() for a, b in zip(whole, again, strict=True))


def test_stage_1_learns_from_the_carriers_that_are_streamed_without_the_kv(backbone: Backbone, film: Film) -> None:
    scan, memory = VideoScan(backbone), VideoScan(backbone).memory()
    with without_kv():
        for row in film:
            memory.add(scan.prefill(row[:1], [memory])[0])
    streamed = np.stack([carrier.kv for carrier in memory.carriers])  # [frames, layers, 2, kv_heads, head_dim]
    with torch.inference_mode():
        made = embedding_pass(backbone, backbone.see([row[0].image for row in film])[None])
    assert made.counts.tolist() == [len(film)]
    assert np.abs(torch.stack((made.keys[:, 0], made.values[:, 0])).permute(3, 1, 0, 2, 4).numpy() - streamed).max() < 1e-4


def test_in_the_public_code_a_question_stands_before_the_latest_carriers(backbone: Backbone) -> None:
    for broken, before in ((False, 0), (True, backbone.tokens_per_frame)):
        with positions_as_in_the_public_code() if broken else without_kv():
            ranks = torch.arange(40)
            stands = context.next_position(backbone, torch.tensor(40))
            assert int((context.carrier_positions(backbone, ranks) >= stands).sum()) == before


class Seen:
    """A library whose frames are noise."""

    def features(self, batch: Batch) -> torch.Tensor:
        return torch.randn(*batch.clips.shape[:1], batch.clips.shape[1] - 3, 64, 128, generator=torch.Generator().manual_seed(3))


def test_the_base_learns_what_dense_decoding_reads(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions side by side behind one pass over frames lose what each loses in a causal pass of its own."""
    texts = [(backbone.suffix(q), backbone.suffix(a)[:3]) for q, a in (("Is there a car?", "yes"), ("Where was the red car?", "no"))]
    longest = max(len(q) + len(a) for q, a in texts)
    tokens, answer = torch.zeros(3, longest, dtype=torch.long), torch.zeros(3, longest, dtype=torch.bool)
    for row, (q, a) in enumerate((*texts, texts[0])):
        tokens[row, : len(q) + len(a)] = torch.tensor(q + a)
        answer[row, len(q) : len(q) + len(a)] = True
    batch = Batch(
        clips=torch.zeros(2, 3 + 4, dtype=torch.long),
        context=torch.tensor([[0, 5, 2], [0, 5, 2], [1, 7, 0]]),
        counts=torch.tensor([3, 3, 2]),
        evidence=torch.zeros(3, 2, 3, dtype=torch.bool),
        tokens=tokens,
        answer=answer,
        begins=torch.zeros(3, dtype=torch.long),
        families=["a", "b", "c"],
    )
    monkeypatch.setattr("model.dense_training.SHARE", 1)
    probe = Probe(backbone.spec.layers, backbone.spec.kv_heads, backbone.head_dim)
    told = losses(backbone, probe, Seen(), batch)  # type: ignore[arg-type]
    alone = [_alone(backbone, batch, row, answer[row]) for row in range(3)]
    assert told.words.item() == pytest.approx(float(np.mean(alone)), rel=1e-4)


def _alone(backbone: Backbone, batch: Batch, row: int, answer: torch.Tensor) -> float:
    features = Seen().features(batch).flatten(0, 1)
    frames = backbone.project(features)[batch.context[row, : batch.counts[row]]]
    text = batch.tokens[row, : int(answer.nonzero().max()) + 1]
    before = torch.cat((backbone.embed(torch.tensor(backbone.prefix)), backbone.family.film(frames)))
    inputs = torch.cat((before, backbone.embed(text)))[None]
    length = inputs.shape[1]
    causal = torch.ones(1, length, length, dtype=torch.bool).tril()
    hidden = backbone.run(inputs, torch.arange(length)[None], DynamicCache(), causal).last_hidden_state[0, len(before) :]
    at = answer.nonzero().flatten()[: len(text)]
    return float(nn.functional.cross_entropy(backbone.logits(hidden[at - 1]), text[at]))


@pytest.mark.gst
@pytest.mark.timeout(1200)  # a minute of two cores, and more of busy ones
def test_ways_are_compared_over_the_same_questions(backbone: Backbone) -> None:
    scan = VideoScan(backbone)
    rows = compare([by_carriers("one", scan), by_carriers("again", scan)], 128, 8, [940_002])
    assert rows[0]["all"] == rows[1]["all"] and {*rows[0]} > {"row", "presence", "tokens", "KV bytes", "prefill ms", "answer ms"}
