"""Memories that live on the device against the plain ones: the same carriers and the same evictions."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import F32, F64, ONE, Shape, backbone, bound, frames, off, shapes, some_models, stream
from torch import Tensor

from model.backbone import Backbone
from model.fast import FUSED, Graphed, compile_small_steps, fuse_attention, sees_past_unmasked
from model.images import resize
from model.resident import Memories, Resident
from model.videoscan import VideoScan
from pipeline.core import Carrier, Frame

CAMERAS = ("gate", "lane", "dock")


def squares(b: Backbone, film: Sequence[Frame]) -> Tensor:
    return torch.cat([resize(torch.tensor(frame.image)[None], b.vision.image_size) for frame in film])


def of_slot(memories: Memories, slot: int) -> tuple[Tensor, Tensor]:
    """Embeddings [carriers, hidden] and kv [carriers, layers, 2, kv_heads, head_dim] of a slot, oldest first."""
    rows = memories.order[slot, : memories.counts[slot]]
    kv = torch.stack((memories.keys[:, slot][:, :, rows], memories.values[:, slot][:, :, rows]))
    return memories.embeddings[slot, rows], kv.permute(3, 1, 0, 2, 4)


def assert_same(memories: Memories, slot: int, carriers: Sequence[Carrier], dtype: torch.dtype = F64) -> None:
    embeddings, kv = of_slot(memories, slot)
    assert len(embeddings) == len(carriers)
    if carriers:
        assert off(embeddings, np.stack([carrier.embedding for carrier in carriers])) < bound(dtype)
        assert off(kv, np.stack([carrier.kv for carrier in carriers])) < bound(dtype)


def side_by_side(b: Backbone, live: int, rounds: Sequence[Sequence[int]], *, dtype: torch.dtype = F64, graphs: bool = False) -> None:
    """Each round gives a frame to some of the cameras, in any order: so their memories are of unequal age."""
    scan, resident = VideoScan(b, live=live), Resident(b, cameras=len(CAMERAS), live=live, graphs=graphs)
    films = [iter(frames(len(rounds), camera)) for camera in CAMERAS]
    memories = [scan.memory() for _ in CAMERAS]
    for slots in rounds:
        batch = [next(films[slot]) for slot in slots]
        carriers = scan.prefill(batch, [memories[slot] for slot in slots])
        fresh = resident.prefill(squares(b, batch), slots).wait()
        assert off(fresh.kv, np.stack([carrier.kv for carrier in carriers])) < bound(dtype)
        assert off(fresh.embeddings, np.stack([carrier.embedding for carrier in carriers])) < bound(dtype)
        for slot, carrier, evicted in zip(slots, carriers, fresh.evicted.tolist(), strict=True):
            before = memories[slot].carriers
            gone = memories[slot].add(carrier)
            assert (before.index(gone) if gone in before else -1) == evicted
        for slot, memory in enumerate(memories):
            assert_same(resident.memories, slot, memory.carriers, dtype)


ROUNDS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True), min_size=4, max_size=12)


@some_models
@given(shapes(), st.integers(1, 4), ROUNDS, st.booleans())
def test_carriers_and_evictions_are_those_of_the_plain_memory(shape: Shape, live: int, rounds: list[list[int]], fused: bool) -> None:
    b = backbone(shape)
    if fused:
        fuse_attention(b)
    assert sees_past_unmasked(b) == fused
    side_by_side(b, live, rounds)


def test_full_memories_need_no_mask() -> None:
    """Three layers: what a frame's tokens see in the first reaches the carrier's keys in the third."""
    b = backbone(replace(ONE, layers=3))
    fuse_attention(b)
    side_by_side(b, 2, [[0, 2]] * 5)


@pytest.mark.parametrize("graphs", [False, True])
def test_the_same_in_float32_with_transformers_own_norms(graphs: bool) -> None:
    b = backbone(ONE, F32)
    side_by_side(b, 3, [[2, 0], [0, 1, 2]] * 5, dtype=F32, graphs=graphs)
    fuse_attention(b)
    side_by_side(b, 3, [[2, 0], [0, 1, 2]] * 5, dtype=F32, graphs=graphs)


def test_compiled_steps_compute_the_same() -> None:
    b = backbone(ONE, F32)
    compile_small_steps(b)
    compiled = [type(m).__name__ for m in b.net.modules() if m._compiled_call_impl is not None]
    assert set(compiled) == {"Qwen2RMSNorm", "Qwen2MLP", "SiglipEncoderLayer"}
    resident, film = Resident(b, cameras=1, live=2), frames(4)
    fresh = [resident.prefill(squares(b, [frame]), [0]).kv[0].clone() for frame in film]
    plain, _ = stream(VideoScan(backbone(ONE, F32), live=2), film)
    assert off(torch.stack(fresh), np.stack([carrier.kv for carrier in plain])) < bound(F32)


def test_a_recalled_memory_goes_on_as_if_it_had_never_stopped() -> None:
    b = backbone(ONE)
    film = frames(12)
    carriers, memory = stream(VideoScan(b, live=4), film[:8])
    embeddings, kv = (torch.tensor(np.stack([getattr(c, name) for c in memory.carriers])) for name in ("embedding", "kv"))
    resident = Resident(b, cameras=2, live=4)
    for frame in frames(3, "lane"):
        resident.prefill(squares(b, [frame]), [1])  # what a slot held before is forgotten
    resident.recall([1, 0], torch.stack((embeddings, embeddings)), torch.stack((kv, kv)))
    scan = VideoScan(b, live=4)
    for frame in film[8:]:
        (carrier,) = scan.prefill([frame], [memory])
        fresh = resident.prefill(squares(b, [frame, frame]), [0, 1])
        assert off(fresh.kv, np.stack((carrier.kv, carrier.kv))) < bound(F64)
        memory.add(carrier)
    assert_same(resident.memories, 0, memory.carriers)
    assert_same(resident.memories, 1, memory.carriers)
    with pytest.raises(ValueError, match="do not fit"):
        resident.recall([0], torch.zeros(1, 5, 32), torch.zeros(1, 5, 2, 2, 2, 8))


def test_equal_frames_evict_as_the_plain_memory_does() -> None:
    """A still scene: all likenesses tie, and the first of them goes."""
    b = backbone(ONE)
    memories = Memories(b, 1, 3)
    slot, kv = torch.tensor([0]), torch.zeros(2, 1, 2, 8, dtype=F64)
    still = torch.ones(1, b.config.hidden_size, dtype=F64)
    assert [int(memories.add(slot, still, kv, kv)) for _ in range(5)] == [-1, -1, -1, 0, 0]


def test_what_cannot_be_is_refused() -> None:
    b = backbone(ONE)
    with pytest.raises(ValueError, match="at least one"):
        Resident(b, cameras=1, live=-1)
    with pytest.raises(ValueError, match="one frame a camera"):
        Resident(b, cameras=2, live=2).prefill(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), [1, 1])
    with pytest.raises(ValueError, match="the paper's policy, not 'recency'"):
        Resident(Backbone(b.net, b.tokenizer, replace(b.habits, live_policy="recency")), cameras=1)


def test_away_from_cuda_a_graphed_function_is_called() -> None:
    twice = Graphed(lambda x: 2 * x, torch.device("cpu"))
    assert [int(twice(torch.tensor(n))) for n in (1, 2, 3)] == [2, 4, 6]


def test_fused_attention_is_known_to_transformers() -> None:
    b = backbone(ONE, F32)
    assert not sees_past_unmasked(b)
    fuse_attention(b)
    assert b.net.model.language_model.config._attn_implementation == FUSED
    assert b.net.model.vision_tower.config._attn_implementation == "sdpa"
