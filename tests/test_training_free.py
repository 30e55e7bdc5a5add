"""The training-free mode: a model that nobody taught carriers reads the visual tokens of frames, as in one plain pass over all of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from carriers import Watched, carrier
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from plain_arithmetic import frame, length, words
from plain_patches import plus_pass
from real_configurations import real
from small_models import EVERY_KIND, F32, F64, LLAVA, ONE, Shape, backbone, bound, frames, off, save, shapes, some_models, stream
from torch import Tensor

from actors.parts import Settings, load_model
from model.backbone import Backbone
from model.habits import BadHabits, Habits
from model.patches import TooManyPatches
from model.similarity import LESS, WORDS, Similarity
from model.training_free import LIVE, RECENT, TOKENS, untaught
from model.videoscan import VideoScan
from pipeline.answerer import Answerer
from pipeline.core import MAX_BYTES, VECTOR, Carrier, CarrierWrite, Form, Frame, Patches, Question, TimeRange
from pipeline.prefiller import Prefiller
from storage.codec import BadCarrier, encode
from storage.store import CarrierStore

QUESTION = "Was there a red car?"


def free(shape: Shape = ONE, dtype: torch.dtype = F64, **changed: object) -> Backbone:
    """A small model as it would be used untaught."""
    b = backbone(shape, dtype)
    return Backbone(b.net, b.tokenizer, replace(untaught(b), spacing=shape.spacing, **changed))  # type: ignore[arg-type]


def beside(carrier: Carrier) -> Patches:
    assert carrier.patches is not None
    return carrier.patches


def plain_pass(b: Backbone, film: Sequence[Frame], text: Sequence[int]) -> tuple[Tensor, Tensor]:
    """transformers' causal pass over [prefix][E1]..[En][text]: the last word's logits, and its attention to each frame, mean over heads."""
    visual, start, size = b.see([each.image for each in film]), len(b.prefix), length(b) - 1
    written, tokens = b.net.get_input_embeddings().weight, visual.flatten(0, 1)
    inputs = torch.cat((written[list(b.prefix)], tokens[:, : b.hidden], written[list(text)]))[None]
    behind = start + len(film) * size
    places = [*words(0, start), *(p for i in range(len(film)) for p in frame(b, start + i * size)[:-1]), *words(behind, len(text))]
    at, total, seen = torch.tensor(places).T[:, None], len(places), slice(start, start + len(tokens))
    mask = torch.zeros(1, total, dtype=torch.bool)
    mask[:, seen] = True
    deep = {"visual_pos_masks": mask, "deepstack_visual_embeds": tokens[:, b.hidden :].split(b.hidden, -1)} if b.family.deep else {}
    unseen = torch.ones(total, total).triu(1).bool()
    out = b.net.model.language_model(
        inputs_embeds=inputs,
        attention_mask=torch.zeros(1, 1, total, total, dtype=b.dtype).masked_fill(unseen, torch.finfo(b.dtype).min),
        position_ids=at[0] if b.net.config.model_type == LLAVA else at,
        use_cache=False,
        output_attentions=True,
        **deep,
    )
    looks = torch.stack([layer[0, :, -1, seen] for layer in out.attentions]).mean((0, 1))
    return b.net.lm_head(out.last_hidden_state[0, -1]), looks.unflatten(0, (len(film), -1)).sum(1)


@EVERY_KIND
@some_models
@given(shape=shapes(["frame-length"]), count=st.integers(1, 4))
def test_streaming_equals_one_plain_pass_over_all_visual_tokens(kind: str, shape: Shape, count: int) -> None:
    b, film = free(replace(shape, kind=kind)), frames(count, seed=shape.seed)
    scan = VideoScan(b)
    carriers, _ = stream(scan, film)
    with torch.inference_mode():
        logits, looks = plain_pass(b, film, b.suffix(QUESTION))
        scored, attention, _, _ = scan._ask(QUESTION, carriers)
    assert off(scored, logits) < bound(F64)
    assert off(attention, looks / looks.sum()) < bound(F64)


@EVERY_KIND
@some_models
@given(shape=shapes(["frame-length"]), patches=st.integers(1, 3), count=st.integers(1, 4))
def test_where_not_all_can_be_kept_it_equals_one_pass_that_chooses_as_it_goes(kind: str, shape: Shape, patches: int, count: int) -> None:
    b, film = free(replace(shape, kind=kind), patches=patches), frames(count, seed=shape.seed)
    scan = VideoScan(b)
    carriers, _ = stream(scan, film)
    with torch.inference_mode():
        logits, _, places, looks = plus_pass(b, film, b.suffix(QUESTION))
        scored, attention, _, _ = scan._ask(QUESTION, carriers)
    assert [beside(c).places.tolist() for c in carriers] == [[layer[i] for layer in places] for i in range(count)]
    assert off(scored, logits[-1]) < bound(F64)
    paid = looks.mean((0, 1))
    assert off(attention, paid / paid.sum()) < bound(F64)


@EVERY_KIND
def test_what_is_kept_of_a_frame_says_all_that_later_ones_may_see(kind: str) -> None:
    b = free(Shape(kind=kind), live=2)
    carriers, memory = stream(VideoScan(b), frames(5))
    assert memory.carriers == tuple(carriers[-2:])
    changed = [replace(each, kv=each.kv * 0 + 7) for each in carriers]  # of carriers nothing is read
    scan, last = VideoScan(b), frames(6)[-1]
    ours, theirs = (scan.prefill([last], [scan.memory(each[-2:])])[0] for each in (carriers, changed))
    assert np.array_equal(beside(ours).kv, beside(theirs).kv)
    assert torch.equal(scan._ask(QUESTION, carriers)[0], scan._ask(QUESTION, changed)[0])
    other = replace(carriers[-1], patches=replace(beside(ours), kv=beside(ours).kv * 2))
    assert not torch.equal(scan._ask(QUESTION, carriers)[0], scan._ask(QUESTION, [*carriers[:-1], other])[0])


def test_the_mode_changes_what_is_remembered_and_the_fingerprint() -> None:
    taught, untold = VideoScan(backbone(replace(ONE, patches="all"))), VideoScan(free())
    assert (taught.mode, untold.mode) == ("carriers", "training-free")
    assert taught.backbone.patches == untold.backbone.patches and taught.fingerprint != untold.fingerprint
    film = frames(3)
    (a, *_), (b, *_) = (stream(scan, film)[0][1:] for scan in (taught, untold))
    assert off(beside(a).kv, beside(b).kv) > 1e-6


# How a model comes to be used so


def test_a_folder_that_says_nothing_was_never_taught(tmp_path: Path) -> None:
    save(backbone(ONE, F32), tmp_path)
    assert Backbone.load(tmp_path).habits.mode == "carriers"
    (tmp_path / "longwatch.json").unlink()
    loaded = Backbone.load(tmp_path)
    assert loaded.habits == untaught(Backbone(loaded.net, loaded.tokenizer)) and loaded.habits.mode == "training-free"
    assert Backbone.load(tmp_path, mode="carriers").habits == Habits()  # to be taught
    (tmp_path / "longwatch.json").write_text('{"mode": "training-free", "patches": 2, "budget": 9}')
    assert Backbone.load(tmp_path).habits == Habits(mode="training-free", patches=2, budget=9)


def test_the_planes_load_it_so_and_say_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(backbone(ONE, F32), tmp_path)
    (tmp_path / "longwatch.json").unlink()
    with caplog.at_level("INFO", "actors.parts"):
        scan, again = (load_model(Settings(redis_url="", registry_url="", model=str(tmp_path))) for _ in range(2))
    assert (scan.mode, scan.recent) == ("training-free", RECENT)
    assert scan.head is not None and scan.head == again.head
    assert f"model {tmp_path} ({scan.fingerprint}), mode: training-free" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", '{"mod": "carriers"}', '{"mode": "dense"}', '{"mode": "training-free"}', '{"grid": 3}'])
def test_habits_that_cannot_be_are_named_with_their_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "longwatch.json").write_text(text)
    with pytest.raises(BadHabits, match=r"longwatch\.json: "):
        Habits.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "patches", "frames", "megabytes"),
    [
        ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 196, 32, 2.43),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 145, 43, 8.39),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 145, 43, 8.39),
        ("Qwen/Qwen3-VL-8B-Instruct", 55, 114, 8.28),
    ],
)
def test_as_much_is_kept_of_a_frame_as_the_memory_takes(name: str, patches: int, frames: int, megabytes: float) -> None:
    b = real(name)
    habits = untaught(b)
    assert (habits.patches, habits.budget, habits.live, habits.recent) == (patches, frames, LIVE, RECENT)
    assert habits.budget * patches <= TOKENS
    used = Backbone(b.net, b.tokenizer, habits)
    assert round(used.spec.carrier_bytes / 1e6, 2) == megabytes  # in bfloat16
    VideoScan(used)  # or it would say that the positions do not suffice
    said = "has 196" if patches == b.tokens_per_frame else f"{patches + 1} patches.*at most {patches} in longwatch.json"
    with pytest.raises(TooManyPatches, match=said):
        VideoScan(Backbone(b.net, b.tokenizer, replace(habits, patches=patches + 1)))


def wide(b: Backbone, patches: int) -> Carrier:
    """A carrier of that size, in the widest precision."""
    spec = b.spec
    shape = (spec.layers, 2, spec.kv_heads, spec.head_dim)
    places = np.tile(np.arange(patches, dtype=np.uint16), (spec.layers, 1))
    beside = Patches(kv=np.zeros((*shape[:3], patches, spec.head_dim), np.float32), places=places)
    return replace(carrier(1000), embedding=np.zeros(spec.hidden, np.float32), kv=np.zeros(shape, np.float32), patches=beside)


def test_what_is_refused_at_load_would_be_refused_at_the_write() -> None:
    b = real("llava-hf/llava-onevision-qwen2-7b-ov-hf")
    assert len(encode(wide(b, b.most_patches), Form.EXACT)) <= MAX_BYTES
    with pytest.raises(BadCarrier):
        encode(wide(b, b.most_patches + 1), Form.EXACT)


# What answers look at


def asked(b: Backbone, words: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean query and key of words behind the prefix, as transformers computes them, each [layers, kv_heads, dim]."""
    made: dict[str, list[Tensor]] = {"q": [], "k": []}
    hooks = []
    for layer in b.net.model.language_model.layers:
        for name, into in made.items():
            last = getattr(layer.self_attn, f"{name}_norm", getattr(layer.self_attn, f"{name}_proj"))
            hooks.append(last.register_forward_hook(lambda _, __, out, into=into: into.append(out)))
    b.net.model.language_model(inputs_embeds=b.embed(torch.tensor([[*b.prefix, *words]])))
    for hook in hooks:
        hook.remove()
    size = (len(b.prefix) + len(words), b.spec.kv_heads, -1, b.head_dim)
    queries, keys = (torch.stack([each.reshape(size)[len(b.prefix) :].mean((0, 2)) for each in both]).numpy() for both in made.values())
    return queries, keys


def scored(b: Backbone, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
    return Similarity(b).vectors(b, torch.empty(0), carriers)


def told(carriers: Sequence[Carrier]) -> NDArray[np.float32]:
    return np.stack([carrier.vector for carrier in carriers if carrier.vector is not None])


@EVERY_KIND
@pytest.mark.parametrize("layers", [1, 4])
def test_a_frame_is_as_relevant_as_its_keys_are_like_the_questions_queries(kind: str, layers: int) -> None:
    """One layer has so few numbers that all are kept; of four the outer two are not asked."""
    b = free(Shape(kind=kind, layers=layers), F32)
    scan, size = VideoScan(b, relevance=Similarity(b)), len(b.tokenizer)
    words = [asked(b, [i * size // WORDS]) for i in range(WORDS)]
    query, key = (np.mean(each, axis=0) for each in zip(*words, strict=True))
    about = asked(b, b.tokenizer(QUESTION, add_special_tokens=False).input_ids)[0] - query
    elsewhere = about * np.array([9, 1, 1, 9] if layers == 4 else [1])[:, None, None]
    carriers, _ = stream(scan, frames(1))
    kv = beside(carriers[0]).kv

    def with_keys(keys: NDArray[np.float32]) -> Carrier:
        held = np.stack((np.broadcast_to(keys[:, :, None], kv[:, 0].shape), kv[:, 1]), axis=1).astype(np.float32)
        return replace(carriers[0], patches=replace(beside(carriers[0]), kv=held))

    vectors = scored(b, [with_keys(key + each) for each in (0 * about, about, 2 * about, -about, elsewhere)])
    sought = scan.sought(QUESTION)
    assert sought is not None
    plain, like, more, unlike, also = vectors @ sought
    assert off(plain, -LESS) < 1e-5 and like - plain > 1e-3
    assert off([more - like, plain - unlike, also - plain], [like - plain] * 3) < 1e-5
    assert np.linalg.norm(sought[:-1]) == pytest.approx(1)
    if layers == 1:
        usual = 2 * np.mean([np.linalg.norm(each - key) for _, each in words])
        assert like - plain == pytest.approx(np.linalg.norm(about) / usual, rel=1e-4)


def test_frames_without_patches_are_like_nothing() -> None:
    b = free(ONE, F32)
    carriers, _ = stream(VideoScan(b, relevance=Similarity(b)), frames(2))
    vectors = scored(b, [carriers[0], replace(carriers[1], patches=None)])
    assert off(vectors[0], told(carriers)[0]) < bound(F32) and vectors[0].any() and vectors[1].tolist() == [0] * (VECTOR - 1) + [1]


@pytest.mark.redis
def test_what_went_through_the_store_is_as_relevant_as_before(redis_url: str) -> None:
    b = free(ONE, F32)
    head, film = Similarity(b), frames(24)
    scan = VideoScan(b, relevance=head)
    carriers, _ = stream(scan, film)
    vectors, sought = told(carriers), scan.sought(QUESTION)
    assert sought is not None
    store = CarrierStore(redis_url, scan.fingerprint, head=scan.head)
    store.put([CarrierWrite(carrier=c, picture=b"jpeg", live=(c.key.at_ms,)) for c in carriers])
    back = [c for c in store.get([c.key for c in carriers]) if c]
    assert off(scored(b, back), vectors) < bound(F32)
    assert np.array_equal(VideoScan(b, relevance=Similarity(b)).sought(QUESTION), sought)
    ((_, kept),) = store.vectors("gate", TimeRange(start_ms=0, end_ms=10**6))
    before, after = vectors @ sought, kept @ sought
    coarse = float((np.abs(vectors).max(1) / 127 / 2).max() * np.abs(sought).sum())
    assert off(before, after) <= coarse
    clear = np.abs(before[:, None] - before) > 2 * coarse  # what bytes can tell apart stays in order
    assert clear.any() and (np.sign(before[:, None] - before) == np.sign(after[:, None] - after))[clear].all()
    store.close()


@pytest.mark.redis
def test_an_answer_looks_at_the_newest_frames_and_the_most_relevant_and_says_its_mode(redis_url: str) -> None:
    b, film = free(ONE, F32), frames(40)
    scan = VideoScan(b, relevance=Similarity(b))
    store = Watched(redis_url, scan.fingerprint, head=scan.head)
    prefiller = Prefiller(scan, store.live, lambda write: store.put([write]), store.claim)
    carriers = [made for each in film for made in prefiller.step([each])]
    answerer = Answerer(scan, store, lambda: ["gate"], budget=16, recent=scan.recent, now_ms=lambda: 40_000)
    answer = answerer.answer(Question(text=QUESTION))
    assert (answer.mode, answer.model, answer.carriers) == ("training-free", scan.fingerprint, 16)
    read = {key.at_ms for key in store.read}
    assert {36_000, 37_000, 38_000, 39_000} <= read
    vectors, sought = told(carriers), scan.sought(QUESTION)
    assert sought is not None
    assert carriers[int((vectors @ sought)[:-RECENT].argmax())].key.at_ms in read
    assert np.ptp(vectors @ sought) > 1e-3 and (vectors @ sought < 0).all()
    store.close()
