"""VideoScan over small random models: streaming, one masked pass and plain arithmetic written here all say the same.

The tests in float64 are to prove equality, so they take what rounds to float32 inside transformers (RMSNorm, the softmax of
eager attention) in float64 as well. Those in float32 run transformers as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)
from transformers.masking_utils import eager_mask

from model.backbone import Backbone, Habits
from model.context import Carriers, carrier_positions, clip_pass, next_position, with_carriers
from model.memory import LiveMemory
from model.spec import ModelSpec
from model.videoscan import ForeignCarrier, VideoScan
from pipeline.core import Carrier, Frame

torch.set_num_threads(1)

F64, F32 = torch.float64, torch.float32
PATCH = 4
END, VIDEO, ANSWER = "<end>", "<video>", "<answer>"
SPEC = ModelSpec(
    backbone="b",
    dtype="float32",
    layers=1,
    kv_heads=1,
    head_dim=8,
    hidden=8,
    tokens_per_frame=4,
    rope_theta=1e4,
    preprocessing="p",
    prompt="q",
)


# Small random models


@dataclass(frozen=True)
class Shape:
    """A model's sizes, all drawn at random."""

    layers: int
    kv_heads: int
    groups: int  # query heads to one of keys
    head_dim: int
    grid: int  # patches along a side: pooled to ceil(grid / 2) squared tokens
    theta: float
    opening: str  # the prompt before the frames
    seed: int


SHAPES = st.builds(
    Shape,
    layers=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    head_dim=st.sampled_from([8, 16]),
    grid=st.sampled_from([3, 4, 5, 6, 7, 8]),
    theta=st.sampled_from([100.0, 10_000.0, 1_000_000.0]),
    opening=st.sampled_from([END, "look: ", "You watch cameras. "]),
    seed=st.integers(0, 1 << 16),
)
ONE = Shape(layers=2, kv_heads=2, groups=2, head_dim=8, grid=4, theta=10_000.0, opening="look: ", seed=1)
some_models = settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])  # shrinking takes long


def tokenizer(opening: str = "look: ") -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows yes and no."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=[END, VIDEO, ANSWER], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["yes no Yes No yes no"] * 3, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)
    wrapped.add_special_tokens({"additional_special_tokens": [VIDEO, ANSWER]})
    wrapped.chat_template = (
        opening + "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'video' %}<video>"
        "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}<answer>"
    )
    return wrapped


TOKENIZERS = {opening: tokenizer(opening) for opening in (END, "look: ", "You watch cameras. ")}


def network(shape: Shape, dtype: torch.dtype) -> LlavaOnevisionForConditionalGeneration:
    words = TOKENIZERS[shape.opening]
    heads = shape.kv_heads * shape.groups
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=shape.grid * PATCH, patch_size=PATCH
    )
    vision.vision_use_head = False
    text = Qwen2Config(
        vocab_size=len(words),
        hidden_size=heads * shape.head_dim,
        intermediate_size=40,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.eos_token_id,
    )
    token = words.convert_tokens_to_ids(VIDEO)
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=token,
        video_token_index=token,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(shape.seed)
    net = LlavaOnevisionForConditionalGeneration(config).to(dtype).eval().requires_grad_(False)
    for weights in net.parameters():  # fresh weights hardly tell one frame from another
        weights += 0.1 * torch.randn_like(weights)
    return net


def exact_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **_: object
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scaling
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2), weights


AttentionInterface.register("exact", exact_attention)
AttentionMaskInterface.register("exact", eager_mask)


def in_float64(net: LlavaOnevisionForConditionalGeneration) -> None:
    """Takes in float64 what transformers takes in float32 whatever the weights are."""
    net.set_attn_implementation("exact")
    for module in list(net.model.language_model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Qwen2RMSNorm":
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=F64)
                norm.weight = child.weight
                setattr(module, name, norm)


def backbone(shape: Shape = ONE, dtype: torch.dtype = F64) -> Backbone:
    net = network(shape, dtype)
    if dtype == F64:
        in_float64(net)
    else:
        net.set_attn_implementation("eager")
    return Backbone(net, TOKENIZERS[shape.opening])


def frames(count: int, camera: str = "gate", seed: int = 0) -> list[Frame]:
    """Random pictures, a second apart."""
    r = np.random.default_rng([seed, *camera.encode()])
    pictures = (r.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(count))
    return [Frame(camera_id=camera, pts_ns=i, captured_ms=1000 * i, image=picture) for i, picture in enumerate(pictures)]


def stream(scan: VideoScan, film: Sequence[Frame]) -> tuple[list[Carrier], LiveMemory]:
    """Frame by frame, as a camera is served."""
    memory, carriers = scan.memory(), []
    for frame in film:
        carriers += scan.prefill([frame], [memory])
        memory.add(carriers[-1])
    return carriers, memory


def kv(carriers: Sequence[Carrier]) -> NDArray[np.float64]:
    return np.stack([carrier.kv for carrier in carriers])  # [carriers, layers, 2, kv_heads, head_dim]


def off(a: object, b: object) -> float:
    """The largest difference, on the scale of the largest value."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert x.shape == y.shape
    return float(np.abs(x - y).max() / max(1.0, np.abs(y).max()))


def bound(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == F64 else 1e-4


def first_tokens(b: Backbone, word: str) -> list[int]:
    ways = (word, f" {word}", word.title(), f" {word.title()}")
    return sorted({b.tokenizer(way, add_special_tokens=False).input_ids[0] for way in ways})


DTYPES = pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])


# References, written without model.context


def whole_pass(b: Backbone, film: Sequence[Frame], text: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One masked pass over [prefix][E1 C1]..[En Cn][text], no cache: logits [text, words] and attention [layers, heads, text, tokens]."""
    visual = b.see([frame.image for frame in film])
    size, start = visual.shape[1] + 1, len(b.prefix)
    blocks = [row for tokens in visual for row in (*tokens, tokens.mean(0))]
    words = b.net.get_input_embeddings().weight
    everything = torch.stack([*words[list(b.prefix)], *blocks, *words[list(text)]])[None]
    total = everything.shape[1]
    mask = torch.full((1, 1, total, total), torch.finfo(b.dtype).min, dtype=b.dtype)
    ends = start + size * len(film)
    for q in range(total):
        for k in range(q + 1):
            in_frames = start <= k < ends
            a_carrier = in_frames and (k - start) % size == size - 1
            same_block = in_frames and q < ends and (k - start) // size == (q - start) // size
            if not in_frames or a_carrier or same_block:
                mask[0, 0, q, k] = 0
    out = b.net.model.language_model(
        inputs_embeds=everything,
        attention_mask=mask,
        position_ids=torch.arange(total)[None],
        use_cache=False,
        output_attentions=True,
    )
    logits = b.net.lm_head(out.last_hidden_state[0, ends:])
    return logits, torch.stack([layer[0, :, ends:] for layer in out.attentions])


Past = list[tuple[Tensor, Tensor]]  # a layer's keys before rotary embedding and values, each [heads, tokens, dim]


def turn(x: Tensor, positions: Sequence[int], theta: float) -> Tensor:
    """Rotary embedding of x [heads, tokens, dim]; angles in float32, as transformers has them."""
    dim = x.shape[-1]
    slow = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=F32) / dim)
    angle = torch.tensor(positions, dtype=F32)[:, None] * slow
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., : dim // 2], x[..., dim // 2 :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def plain(b: Backbone, tokens: Tensor, at: Sequence[int], past: Past, past_at: Sequence[int], prefix: int) -> tuple[Tensor, Past]:
    """Qwen2 from its projections: `tokens` [n, hidden], the first `prefix` of which do not see the past. All else is causal."""
    config = b.net.config.text_config
    heads, groups = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    n, members = len(tokens), len(past_at)
    sees = torch.ones(n, members + n, dtype=torch.bool)
    sees[:prefix, :members] = False
    sees[:, members:] = torch.ones(n, n).tril().bool()
    made: Past = []
    x = tokens
    for i, layer in enumerate(b.net.model.language_model.layers):
        h, attn = layer.input_layernorm(x), layer.self_attn
        q, k, v = (p(h).unflatten(-1, (-1, b.head_dim)).transpose(0, 1) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        made.append((k, v))
        old_k, old_v = past[i] if members else (k[:, :0], v[:, :0])
        keys = torch.cat((turn(old_k, past_at, config.rope_parameters["rope_theta"]), turn(k, at, config.rope_parameters["rope_theta"])), 1)
        values = torch.cat((old_v, v), 1)
        mixed = []
        for head, query in enumerate(turn(q, at, config.rope_parameters["rope_theta"])):
            score = query @ keys[head // groups].T / b.head_dim**0.5
            mixed.append(score.masked_fill(~sees, -torch.inf).softmax(-1) @ values[head // groups])
        assert len(mixed) == heads * groups
        x = x + attn.o_proj(torch.cat(mixed, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return b.net.model.language_model.norm(x), made


def seats(b: Backbone, members: int) -> list[int]:
    """Where the members of a memory stand: each at the end of a frame's length of its own, by rank."""
    grid = b.net.config.vision_config.image_size // PATCH
    size = ((grid + 1) // 2) ** 2 + 1
    return [len(b.prefix) + size * rank + size - 1 for rank in range(members)]


def as_past(carriers: Sequence[Carrier]) -> Past:
    tensor = torch.from_numpy(kv(carriers)) if carriers else torch.zeros(0)
    return [(tensor[:, i, 0].transpose(0, 1), tensor[:, i, 1].transpose(0, 1)) for i in range(tensor.shape[1])] if carriers else []


def plain_stream(b: Backbone, film: Sequence[Frame], limit: int) -> tuple[list[list[tuple[Tensor, Tensor]]], Past, list[int]]:
    """Carriers with eviction, naively: keys and values a layer of each frame's carrier; the last memory; which frames are in it."""
    words = b.net.get_input_embeddings().weight
    prefix = len(b.prefix)
    kept: list[int] = []
    means: list[Tensor] = []
    carriers: list[list[tuple[Tensor, Tensor]]] = []

    def memory() -> Past:
        layers = range(len(b.net.model.language_model.layers))
        return [(torch.stack([carriers[j][i][0] for j in kept], 1), torch.stack([carriers[j][i][1] for j in kept], 1)) for i in layers]

    for t, frame in enumerate(film):
        (visual,) = b.see([frame.image])
        means.append(visual.mean(0))
        block = torch.cat((words[list(b.prefix)], visual, visual.mean(0)[None]))
        behind = seats(b, len(kept))[-1] + 1 if kept else prefix
        at = [*range(prefix), *range(behind, behind + len(visual) + 1)]
        _, made = plain(b, block, at, memory() if kept else [], seats(b, len(kept)), prefix)
        carriers.append([(k[:, -1], v[:, -1]) for k, v in made])
        kept.append(t)
        if len(kept) > limit:
            alike = [float(nn.functional.cosine_similarity(means[i], means[j], 0)) for i, j in zip(kept, kept[1:], strict=False)]
            kept.pop(alike.index(max(alike)))
    return carriers, memory(), kept


# Streaming equals training


@DTYPES
@some_models
@given(shape=SHAPES, count=st.integers(1, 6))
def test_streaming_gives_the_carriers_of_the_one_masked_pass(dtype: torch.dtype, shape: Shape, count: int) -> None:
    b = backbone(shape, dtype)
    film = frames(count, seed=shape.seed)
    streamed, _ = stream(VideoScan(b, live=count), film)
    with torch.inference_mode():
        keys, values = clip_pass(b, b.see([frame.image for frame in film])[None])
    masked = torch.stack((keys[:, 0], values[:, 0])).permute(3, 1, 0, 2, 4)  # [frames, layers, 2, kv_heads, head_dim]
    assert off(kv(streamed), masked) < bound(dtype)


@DTYPES
@some_models
@given(shape=SHAPES, count=st.integers(1, 5), question=st.sampled_from(["?", "Was there a red car?"]))
def test_a_question_after_streaming_scores_as_in_one_masked_pass(dtype: torch.dtype, shape: Shape, count: int, question: str) -> None:
    b = backbone(shape, dtype)
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
    taught = VideoScan(Backbone(b.net, b.tokenizer, Habits(evidence_heads=((shape.layers - 1, shape.kv_heads * shape.groups - 1), (0, 0)))))
    assert off(taught.judge(question, carriers).attention, (at_carriers[-1, -1] + at_carriers[0, 0]) / 2) < bound(dtype)
    judged = scan.judge(question, carriers)
    odds = whole[-1].double().softmax(-1)
    yes, no = (float(odds[first_tokens(b, word)].sum()) for word in ("yes", "no"))
    assert off(judged.probability, yes / (yes + no)) < bound(dtype)


@some_models
@given(shape=SHAPES, limit=st.sampled_from([1, 2, 3, 5]), more=st.integers(1, 5))
def test_with_evictions_streaming_equals_plain_arithmetic(shape: Shape, limit: int, more: int) -> None:
    b = backbone(shape)
    film = frames(limit + more, seed=shape.seed)
    scan = VideoScan(b, live=limit)
    with torch.inference_mode():
        wanted, past, kept = plain_stream(b, film, limit)
        carriers, memory = stream(scan, film)
        assert off(kv(carriers), torch.stack([torch.stack([torch.stack(layer) for layer in each]) for each in wanted])) < 1e-12
        assert [carrier.key.at_ms for carrier in memory.carriers] == [film[i].captured_ms for i in kept]

        suffix = b.suffix("Is it?")
        words = b.net.get_input_embeddings().weight[[*b.prefix, *suffix]]
        behind = seats(b, limit)[-1] + 1
        hidden, _ = plain(b, words, [*range(len(b.prefix)), *range(behind, behind + len(suffix))], past, seats(b, limit), len(b.prefix))
        assert off(scan._ask("Is it?", memory.carriers)[0], b.net.lm_head(hidden[-1])) < 1e-12


@DTYPES
@some_models
@given(shape=SHAPES, lengths=st.lists(st.integers(0, 4), min_size=2, max_size=4))
def test_a_batch_of_unequal_memories_equals_one_camera_at_a_time(dtype: torch.dtype, shape: Shape, lengths: list[int]) -> None:
    scan = VideoScan(backbone(shape, dtype), live=4)
    films = [frames(n + 1, camera=f"cam-{i}", seed=shape.seed) for i, n in enumerate(lengths)]
    memories = [stream(scan, film[:-1])[1] for film in films]
    together = scan.prefill([film[-1] for film in films], memories)
    alone = [scan.prefill([film[-1]], [memory])[0] for film, memory in zip(films, memories, strict=True)]
    assert [c.key for c in together] == [c.key for c in alone]
    assert off(kv(together), kv(alone)) < bound(dtype)
    assert off([c.embedding for c in together], [c.embedding for c in alone]) < bound(dtype)


# Keys are stored before rotary embedding


@DTYPES
@some_models
@given(shape=SHAPES, count=st.integers(1, 8))
def test_keys_put_into_place_equal_keys_that_were_never_cached(dtype: torch.dtype, shape: Shape, count: int) -> None:
    """The first layer's keys depend on nothing but the carrier's embedding: project it afresh and turn it where it stands."""
    b = backbone(shape, dtype)
    scan = VideoScan(b, live=count)
    carriers, _ = stream(scan, frames(count, seed=shape.seed))
    layer = b.net.model.language_model.layers[0]
    with torch.inference_mode():
        means = torch.tensor(np.stack([c.embedding for c in carriers]))
        fresh = layer.self_attn.k_proj(layer.input_layernorm(means)).unflatten(-1, (-1, b.head_dim)).transpose(0, 1)
        cached = with_carriers(b, scan._collate([carriers])).layers[0].keys[0, :, len(b.prefix) :]
    assert off(kv(carriers)[:, 0, 0], fresh.transpose(0, 1)) < bound(dtype)
    assert off(cached, turn(fresh, seats(b, count), shape.theta)) < bound(dtype)


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


@some_models
@given(shape=SHAPES, live=st.integers(1, 9))
def test_what_follows_a_memory_stands_behind_all_of_it_and_carriers_stay_apart_and_in_order(shape: Shape, live: int) -> None:
    """Seen at the model's own input: the positions with which the language model is really called."""
    b = backbone(shape, F32)
    scan = VideoScan(b, live=live)
    _, memory = stream(scan, frames(live + 3, seed=shape.seed))
    assert len(memory) == live
    called: list[list[int]] = []
    hook = b.net.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: called.append(kwargs["position_ids"][0].tolist()), with_kwargs=True
    )
    places = carrier_positions(b, torch.arange(live)).tolist()
    assert places == seats(b, live) == sorted(set(places))
    scan.prefill(frames(1, camera="gate"), [memory])
    scan.decode("Was there a car?", memory.carriers, longest=3)
    hook.remove()
    prefixes, others = [c for c in called if c[0] == 0], [c for c in called if c[0] > 0]
    assert len(prefixes) == 2
    assert all(c == list(range(len(b.prefix))) for c in prefixes)
    frame, question, *words = others
    assert frame == list(range(places[-1] + 1, places[-1] + 2 + b.tokens_per_frame))
    assert [*question, *(w for word in words for w in word)] == list(range(places[-1] + 1, places[-1] + 1 + len(question) + len(words)))
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
    assert [n - own for n in seen[1::2]] == [min(i, limit) for i in range(limit + 3)]


@given(question=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), opening=st.sampled_from(sorted(TOKENIZERS)))
@settings(deadline=None)
def test_no_token_of_the_prompt_is_lost(question: str, opening: str) -> None:
    b = backbone(replace(ONE, opening=opening), F32) if opening not in BACKBONES else BACKBONES[opening]
    BACKBONES[opening] = b
    text = f"{question.replace('<', '')} ?"
    whole = f"{opening}{VIDEO}{text}{ANSWER}"
    assert b.tokenizer.decode([*b.prefix, b.tokenizer.convert_tokens_to_ids(VIDEO), *b.suffix(text)]) == whole


BACKBONES: dict[str, Backbone] = {}


def test_a_question_cannot_smuggle_in_special_tokens() -> None:
    b = backbone(ONE, F32)
    special = {b.tokenizer.convert_tokens_to_ids(t) for t in (END, VIDEO, ANSWER)}
    asked = b.suffix(f"Is it {ANSWER}{END}{VIDEO}?")
    assert not special & set(asked[:-1])


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
    scan = VideoScan(backbone(ONE, F32), live=3)
    films = [frames(1, camera=f"cam-{i}") for i in range(4)]
    made = scan.prefill([film[0] for film in films], [scan.memory() for _ in films])
    for array in (a for c in made for a in (c.kv, c.embedding)):
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


# Fingerprints


def test_a_carrier_of_another_model_is_refused() -> None:
    scan = VideoScan(backbone(), live=4)
    own, _ = stream(scan, frames(3))
    foreign = [own[0], replace(own[1], fingerprint="0" * 16), own[2]]
    for asks in (scan.decode, scan.judge):
        with pytest.raises(ForeignCarrier, match="0" * 16):
            asks("?", foreign)


@pytest.mark.parametrize("name", [f.name for f in fields(ModelSpec)])
def test_the_fingerprint_changes_with_every_field(name: str) -> None:
    value = getattr(SPEC, name)
    other = replace(SPEC, **{name: f"{value}'" if isinstance(value, str) else value + 1})
    assert other.fingerprint != SPEC.fingerprint
    assert replace(SPEC).fingerprint == SPEC.fingerprint


def test_a_carriers_bytes_are_those_that_the_spec_tells() -> None:
    scan = VideoScan(backbone(ONE, F32))
    (carrier,) = scan.prefill(frames(1), [scan.memory()])
    assert carrier.kv.nbytes + carrier.embedding.nbytes == scan.backbone.spec.carrier_bytes


def test_the_fingerprint_changes_with_a_weight_of_any_tensor() -> None:
    b = backbone(ONE, F32)
    unchanged = b.spec.fingerprint
    for name, weights in b.net.state_dict().items():
        for place in {0, weights.numel() // 2, weights.numel() - 1}:
            flat = weights.view(-1)
            kept = flat[place].clone()
            flat[place] += 1e-3
            changed = Backbone(b.net, b.tokenizer).spec.fingerprint
            assert changed != unchanged, (name, place)
            flat[place] = kept
    assert Backbone(b.net, b.tokenizer).spec.fingerprint == unchanged


def test_the_fingerprint_changes_when_two_weights_change_places() -> None:
    b = backbone(ONE, F32)
    flat = b.net.state_dict()["model.language_model.layers.0.self_attn.k_proj.weight"].view(-1)
    before = b.spec.fingerprint
    flat[[-1, -2]] = flat[[-2, -1]]
    assert Backbone(b.net, b.tokenizer).spec.fingerprint != before


def test_the_fingerprint_changes_with_the_last_bit_of_a_weight() -> None:
    b = backbone(ONE, F32)
    flat = b.net.state_dict()["model.language_model.embed_tokens.weight"].view(-1)
    flat[-1] = 1e-12
    before = Backbone(b.net, b.tokenizer).spec.fingerprint
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(1.0))
    assert Backbone(b.net, b.tokenizer).spec.fingerprint != before


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("text_config", "rms_norm_eps", 0.1),
        ("text_config", "hidden_act", "relu"),
        ("vision_config", "layer_norm_eps", 0.1),
        ("vision_config", "hidden_act", "relu"),
        ("", "vision_feature_layer", -2),
        ("", "projector_hidden_act", "relu"),
    ],
)
def test_the_fingerprint_changes_with_every_setting_that_changes_a_carrier(tmp_path: Path, where: str, name: str, value: object) -> None:
    b = backbone(ONE, F32)
    config = b.net.config.__class__.from_dict(b.net.config.to_dict())
    setattr(getattr(config, where) if where else config, name, value)
    net = LlavaOnevisionForConditionalGeneration(config).eval().requires_grad_(False)
    net.load_state_dict(b.net.state_dict())
    net.set_attn_implementation("eager")
    one, other = VideoScan(b), VideoScan(Backbone(net, b.tokenizer))
    assert off(kv(stream(one, frames(2))[0]), kv(stream(other, frames(2))[0])) > 1e-4  # or the setting would not matter
    assert one.fingerprint != other.fingerprint


@some_models
@given(shape=SHAPES)
def test_saved_and_loaded_a_model_makes_the_same_carriers(tmp_path_factory: pytest.TempPathFactory, shape: Shape) -> None:
    folder = tmp_path_factory.mktemp("model")
    habits = Habits(live=2, budget=7, evidence_heads=((shape.layers - 1, 0), (0, 0)))
    b = Backbone(backbone(shape, F32).net, TOKENIZERS[shape.opening], habits, ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    b.net.save_pretrained(folder)
    b.tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    b.habits.save(folder)
    again = Backbone.load(folder)
    assert (again.spec, again.habits) == (b.spec, habits)
    assert (again.prefix, again.suffix("Is it?")) == (b.prefix, b.suffix("Is it?"))
    one, other = (stream(VideoScan(x), frames(3, seed=shape.seed))[0] for x in (b, again))
    assert [c.fingerprint for c in one] == [c.fingerprint for c in other]
    assert off(kv(one), kv(other)) < 1e-6  # the same weights, but not at the same addresses
    assert off([c.embedding for c in one], [c.embedding for c in other]) < 1e-6


# Answers


@some_models
@given(shape=SHAPES, count=st.integers(1, 3))
def test_an_answer_is_the_step_by_step_best_of_the_full_pass_without_a_cache(shape: Shape, count: int) -> None:
    b = backbone(shape)
    scan = VideoScan(b, live=count)
    film = frames(count, seed=shape.seed)
    carriers, _ = stream(scan, film)
    text, said, sure = b.suffix("What is it?"), [], 1.0
    with torch.inference_mode():
        for _ in range(6):
            odds = whole_pass(b, film, [*text, *said])[0][-1].softmax(-1)
            token = int(odds.argmax())
            sure *= float(odds[token])
            if token == b.tokenizer.eos_token_id:
                break
            said.append(token)
    decoded = scan.decode("What is it?", carriers, longest=6)
    assert decoded.text == b.words(said)
    assert decoded.probability == pytest.approx(sure, rel=1e-9)


def test_an_answer_ends_at_its_end_and_at_the_longest() -> None:
    b = backbone(ONE, F32)
    scan = VideoScan(b, live=2)
    carriers, _ = stream(scan, frames(2))
    passes: list[int] = []
    b.net.lm_head.register_forward_pre_hook(lambda *_: passes.append(1))
    scan.decode("?", carriers, longest=4)
    assert 4 <= len(passes) <= 5
    b.net.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor([b.tokenizer.eos_token_id]), 1e4))
    assert scan.decode("?", carriers).text == ""


def test_carriers_repeat_and_reorder_by_row() -> None:
    keys = torch.arange(24.0).reshape(1, 3, 1, 4, 2)
    sets = Carriers(keys=keys, values=-keys, counts=torch.tensor([1, 4, 2]))
    picked = sets.expand(torch.tensor([2, 0, 2]))
    assert picked.counts.tolist() == [2, 1, 2]
    assert torch.equal(picked.keys[:, 1], keys[:, 0])
    assert torch.equal(picked.values[:, 2], -keys[:, 2])
    assert picked.present.tolist() == [[True, True, False, False], [True, False, False, False], [True, True, False, False]]
