"""VideoScan+: patches beside carriers, over small random models of every family in float64."""

from dataclasses import replace
from math import prod
from typing import Literal

import numpy as np
import pytest
import torch
from carriers import assert_same
from hypothesis import example, given
from hypothesis import strategies as st
from plain_arithmetic import frame, length, turn, word
from plain_patches import Member, plus_answer, plus_pass, plus_stream
from small_models import EVERY_KIND, F32, F64, ONE, Shape, backbone, bound, frames, kv, off, shapes, some_models, stream

from model.backbone import Backbone
from model.context import clip_pass, streamed_pass, with_carriers
from model.habits import Habits
from model.patches import TooManyPatches
from model.resident import Resident
from model.videoscan import ForeignCarrier, VideoScan
from pipeline.core import Carrier, CarrierWrite, Patches
from storage.cache import OVERHEAD
from storage.store import CarrierStore

KEPT = st.sampled_from([1, 2, 3, 5, "all"])
DEEP = Shape(layers=3, grid=7)  # layers differ in which of the sixteen patches they keep


def keeping(shape: Shape, kind: str, patches: int | Literal["all"]) -> Backbone:
    """A model that keeps so many patches, or all if it has fewer."""
    of_kind = replace(shape, kind=kind)
    return backbone(replace(of_kind, patches=patches if patches == "all" else min(patches, prod(of_kind.visual))))


def beside(carrier: Carrier) -> Patches:
    assert carrier.patches is not None
    return carrier.patches


def without(carrier: Carrier) -> Carrier:
    return replace(carrier, patches=None)


def assert_is(carrier: Carrier, member: Member) -> None:
    assert beside(carrier).places.tolist() == member.places
    assert off(carrier.kv[..., None, :], np.stack([np.stack(layer) for layer in member.carrier])) < bound(F64)
    assert off(beside(carrier).kv, np.stack([np.stack(layer) for layer in member.patches])) < bound(F64)


@EVERY_KIND
@some_models
@given(shape=shapes(["frame-length"]), patches=KEPT, count=st.integers(1, 4))
@example(shape=DEEP, patches=3, count=3)
def test_streaming_equals_one_masked_pass_that_chooses_patches_as_it_goes(
    kind: str, shape: Shape, patches: int | Literal["all"], count: int
) -> None:
    b = keeping(shape, kind, patches)
    scan, film = VideoScan(b, live=count), frames(count, seed=shape.seed)
    carriers, _ = stream(scan, film)
    size, start = b.tokens_per_frame + 1, len(b.prefix)
    with torch.inference_mode():
        logits, made, places, looks = plus_pass(b, film, b.suffix("Is it?"))
        scored, attention, _, _ = scan._ask("Is it?", carriers)
    for i, carrier in enumerate(carriers):
        assert beside(carrier).places.tolist() == [layer[i] for layer in places]
        own = [(k[:, start + size * i :][:, :size], v[:, start + size * i :][:, :size]) for k, v in made]
        at = [layer[i] for layer in places]
        patch_rows = [(k[:, row], v[:, row]) for (k, v), row in zip(own, at, strict=True)]
        carrier_rows = [(k[:, -1:], v[:, -1:]) for k, v in own]
        assert_is(carrier, Member(carrier=carrier_rows, patches=patch_rows, places=at, mean=torch.zeros(0)))
    assert off(scored, logits[-1]) < bound(F64)
    paid = looks.mean((0, 1))
    assert off(attention, paid / paid.sum()) < bound(F64)


@EVERY_KIND
@some_models
@given(shape=shapes(), patches=KEPT, limit=st.sampled_from([1, 2, 3]), more=st.integers(1, 3))
@example(shape=replace(DEEP, spacing="unit"), patches=3, limit=2, more=3)
def test_with_evictions_streaming_equals_plain_arithmetic(
    kind: str, shape: Shape, patches: int | Literal["all"], limit: int, more: int
) -> None:
    b = keeping(shape, kind, patches)
    film = frames(limit + more, seed=shape.seed)
    scan = VideoScan(b, live=limit)
    carriers, memory = stream(scan, film)
    with torch.inference_mode():
        members, kept = plus_stream(b, film, limit)
        for carrier, member in zip(carriers, members, strict=True):
            assert_is(carrier, member)
        assert [carrier.key.at_ms for carrier in memory.carriers] == [film[i].captured_ms for i in kept]
        told = plus_answer(b, [members[i] for i in kept], b.suffix("Is it?"))
    assert off(scan._ask("Is it?", memory.carriers)[0], told) < bound(F64)


@EVERY_KIND
@some_models
@given(shape=shapes(), patches=KEPT, faded=st.lists(st.integers(0, 3), unique=True))
def test_carriers_may_lose_their_patches(kind: str, shape: Shape, patches: int | Literal["all"], faded: list[int]) -> None:
    """What stands where does not change: who has no patches is passed over where they were."""
    b = keeping(shape, kind, patches)
    film = frames(4, seed=shape.seed)
    scan = VideoScan(b, live=4)
    carriers, _ = stream(scan, film)
    left = [without(carrier) if i in faded else carrier for i, carrier in enumerate(carriers)]
    with torch.inference_mode():
        told = plus_answer(b, plus_stream(b, film, 4)[0], b.suffix("Is it?"), faded)
    assert off(scan._ask("Is it?", left)[0], told) < bound(F64)


@EVERY_KIND
@some_models
@given(shape=shapes(), patches=KEPT, lengths=st.lists(st.integers(0, 3), min_size=2, max_size=3), fade=st.booleans())
def test_a_batch_of_unequal_memories_equals_one_camera_at_a_time(
    kind: str, shape: Shape, patches: int | Literal["all"], lengths: list[int], fade: bool
) -> None:
    scan = VideoScan(keeping(shape, kind, patches), live=3)
    films = [frames(n + 1, camera=f"cam-{i}", seed=shape.seed) for i, n in enumerate(lengths)]
    memories = [stream(scan, film[:-1])[1] for film in films]
    if fade:
        memories[0] = scan.memory([without(carrier) for carrier in memories[0].carriers])
    together = scan.prefill([film[-1] for film in films], memories)
    alone = [scan.prefill([film[-1]], [memory])[0] for film, memory in zip(films, memories, strict=True)]
    assert off(kv(together), kv(alone)) < bound(F64)
    assert off([beside(c).kv for c in together], [beside(c).kv for c in alone]) < bound(F64)
    assert [beside(c).places.tolist() for c in together] == [beside(c).places.tolist() for c in alone]


@EVERY_KIND
@some_models
@given(shape=shapes(), patches=KEPT, count=st.integers(1, 4))
def test_patches_put_into_place_equal_patches_that_were_never_cached(
    kind: str, shape: Shape, patches: int | Literal["all"], count: int
) -> None:
    """The first layer's keys depend on nothing but the visual tokens: project them afresh and turn them where they stand."""
    b = keeping(shape, kind, patches)
    scan, film = VideoScan(b, live=count), frames(count, seed=shape.seed)
    carriers, _ = stream(scan, film)
    layer = b.net.model.language_model.layers[0]
    with torch.inference_mode():
        chosen = [tokens[beside(c).places[0].astype(int)] for tokens, c in zip(b.see([f.image for f in film]), carriers, strict=True)]
        fresh = layer.self_attn.k_proj(layer.input_layernorm(torch.cat(chosen)[:, : b.hidden])).unflatten(-1, (-1, b.head_dim))
        fresh = (layer.self_attn.k_norm(fresh) if hasattr(layer.self_attn, "k_norm") else fresh).transpose(0, 1)
        cached = with_carriers(b, scan._collate([carriers])).layers[0].keys[0, :, len(b.prefix) + count :]
    start = len(b.prefix)
    if b.habits.spacing == "frame-length":
        at = [frame(b, start + rank * length(b))[place] for rank, c in enumerate(carriers) for place in beside(c).places[0]]
    else:
        at = [word(start + rank * (b.patches + 1) + i) for rank in range(count) for i in range(b.patches)]
    assert off(cached, turn(b, fresh, at)) < bound(F64)


@EVERY_KIND
def test_a_clip_streamed_with_gradients_gives_the_carriers_and_patches_of_the_stream(kind: str) -> None:
    b = backbone(Shape(kind=kind, patches=2))
    films = [frames(3, camera) for camera in ("gate", "lane")]
    tokens = torch.stack([b.see([frame.image for frame in film]) for film in films]).requires_grad_(True)
    made = streamed_pass(b, tokens)
    assert made.patches is not None and made.counts.tolist() == [3, 3] and made.visible.all()
    scan = VideoScan(b, live=3)
    told = scan._collate([stream(scan, film)[0] for film in films])
    assert told.patches is not None
    for ours, theirs in ((made.keys, told.keys), (made.values, told.values)):
        assert off(ours.detach(), theirs) < bound(F64)
    for ours, theirs in ((made.patches.keys, told.patches.keys), (made.patches.values, told.patches.values)):
        assert off(ours.detach(), theirs) < bound(F64)
    assert torch.equal(made.patches.places, told.patches.places)
    made.patches.values.square().sum().backward()
    assert tokens.grad is not None and float(tokens.grad.abs().sum()) > 0
    swapped = made.expand(torch.tensor([1, 0, 1]))
    assert swapped.patches is not None and torch.equal(swapped.patches.keys[:, 2], made.patches.keys[:, 1])
    assert torch.equal(swapped.patches.places[:, 1], made.patches.places[:, 0]) and swapped.visible.shape == (3, 9)


def test_sets_are_chosen_with_their_patches_of_which_older_carriers_may_have_lost_theirs() -> None:
    b = backbone(Shape(patches=2))
    made = clip_pass(b, torch.stack([b.see([frame.image for frame in frames(3, camera)]) for camera in ("gate", "lane")]))
    chosen = made.chosen(torch.tensor([[1, 4, 5], [3, 0, 0]]), torch.tensor([3, 1]))
    assert made.patches is not None and chosen.patches is not None
    for ours, all_of_them in ((chosen, made), (chosen.patches, made.patches)):
        for name in ("keys", "values"):
            told, origin = getattr(ours, name), getattr(all_of_them, name)
            assert torch.equal(told[:, 0, :, 0], origin[:, 0, :, 1]) and torch.equal(told[:, 0, :, 2], origin[:, 1, :, 2])
            assert torch.equal(told[:, 1, :, 0], origin[:, 1, :, 0])
    assert torch.equal(chosen.patches.places[:, 0, 1], made.patches.places[:, 1, 1])
    assert chosen.patches.kept.tolist() == [[True, True, True], [True, False, False]]
    drawn = [chosen.faded().patches for _ in range(60)]
    kept = {tuple(patches.kept[0].tolist()) for patches in drawn if patches}
    assert kept == {(True, True, True), (False, True, True), (False, False, True), (False, False, False)}
    assert all(not patches.kept[1, 1:].any() for patches in drawn if patches)
    bare = replace(made, patches=None)
    assert bare.faded() is bare


def test_patches_change_what_is_remembered_and_the_fingerprint() -> None:
    scans = [VideoScan(backbone(replace(ONE, patches=k)), live=3) for k in (0, 1, 2, "all")]  # type: ignore[arg-type]
    film = frames(3)
    last = [stream(scan, film)[0][-1] for scan in scans]
    assert last[0].patches is None
    assert [beside(c).kv.shape[3] for c in last[1:]] == [1, 2, 4]
    assert all(off(a.kv, b.kv) > 1e-6 for i, a in enumerate(last) for b in last[:i])
    assert len({scan.fingerprint for scan in scans}) == 4
    assert VideoScan(backbone(replace(ONE, patches=4))).fingerprint == scans[3].fingerprint  # all of them are four


def test_patches_take_the_bytes_that_the_spec_tells_and_hold_no_others_in_memory() -> None:
    scan = VideoScan(backbone(replace(ONE, patches=2), F32), live=3)
    made = scan.prefill([frames(1, camera)[0] for camera in ("gate", "lane")], [scan.memory(), scan.memory()])
    for carrier in made:
        assert carrier.nbytes == scan.backbone.spec.carrier_bytes
        assert beside(carrier).kv.base is None and beside(carrier).places.base is None


def test_what_went_through_the_store_is_read_as_if_it_had_not(redis_url: str) -> None:
    scan = VideoScan(backbone(replace(ONE, patches=2), F32), live=3)
    carriers, memory = stream(scan, frames(4))
    store = CarrierStore(redis_url, scan.fingerprint, cache_bytes=1 << 20)
    live = tuple(c.key.at_ms for c in memory.carriers)
    claim = store.claim("gate")
    store.put([CarrierWrite(carrier=carrier, picture=b"jpeg", live=live, claim=claim) for carrier in carriers])
    for _ in range(2):  # from Redis, then from the cache
        for ours, theirs in zip(store.live("gate"), memory.carriers, strict=True):
            assert_same(ours, theirs)
    assert store.cache is not None and store.cache.bytes == sum(c.nbytes + OVERHEAD for c in memory.carriers)
    assert torch.equal(scan._ask("?", store.live("gate"))[0], scan._ask("?", memory.carriers)[0])
    store.close()


@pytest.mark.parametrize("change", ["another place", "another number"])
def test_patches_that_no_frame_of_the_model_has_are_refused(change: str) -> None:
    scan = VideoScan(backbone(replace(ONE, patches=2), F32), live=3)
    own, _ = stream(scan, frames(2))
    of = beside(own[1])
    beyond, fewer = replace(of, places=of.places + 4), replace(of, kv=of.kv[:, :, :, :1], places=of.places[:, :1])
    odd = beyond if change == "another place" else fewer
    with pytest.raises(ForeignCarrier, match="no frame of this model"):
        scan.decode("?", [own[0], replace(own[1], patches=odd)])


def test_what_cannot_be_kept_is_refused_early() -> None:
    for wrong in (-1, "some", True):
        with pytest.raises(ValueError, match="0 for none, or all"):
            Habits(patches=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing else is read"):
        Habits(mode="training-free")
    with pytest.raises(ValueError, match="mode 'dense'"):
        Habits(mode="dense", patches="all")  # type: ignore[arg-type]
    with pytest.raises(TooManyPatches, match="5 patches.*has 4"):
        VideoScan(backbone(replace(ONE, patches=5), F32))
    b = backbone(replace(ONE, patches=2), F32)
    with pytest.raises(ValueError, match="keep no patches"):
        Resident(b, cameras=1)
