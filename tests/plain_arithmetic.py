"""References for VideoScan, written without model.context: one masked pass without a cache, and plain arithmetic."""

from collections.abc import Sequence

import torch
from small_models import LLAVA, QWEN2
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from model.backbone import Backbone
from pipeline.core import Carrier, Frame

Place = tuple[int, int, int]  # on the axes of time, height and width; LLaVA knows only the first
Past = list[tuple[Tensor, Tensor]]  # a layer's keys before rotary embedding and values, each [heads, tokens, dim]
Seats = list[list[Place]]  # of a past, a layer each: patches are not the same in all


# Where things stand


def word(position: int) -> Place:
    return position, position, position


def words(start: int, count: int) -> list[Place]:
    return [word(start + i) for i in range(count)]


def frame(b: Backbone, start: int) -> list[Place]:
    """A frame's visual tokens and its carrier."""
    down, across = b.family.grid
    if b.net.config.model_type == LLAVA:
        return words(start, down * across + 1)
    return [*((start, start + row, start + column) for row in range(down) for column in range(across)), word(start + max(down, across))]


def length(b: Backbone) -> int:
    """Positions that a frame takes."""
    return frame(b, 0)[-1][0] + 1


def seats(b: Backbone, members: int) -> list[int]:
    """Where the members of a memory stand, by rank: each at the end of a frame's length of its own, or one after the other."""
    size = length(b) if b.habits.spacing == "frame-length" else 1 + b.patches
    return [len(b.prefix) + size * rank + size - 1 for rank in range(members)]


def behind(b: Backbone, members: int) -> int:
    return seats(b, members)[-1] + 1 if members else len(b.prefix)


# One masked pass


def whole_pass(b: Backbone, film: Sequence[Frame], text: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One masked pass over [prefix][E1 C1]..[En Cn][text], no cache: logits [text, words] and attention [layers, heads, text, tokens]."""
    visual = b.see([each.image for each in film])
    size, start, ends = visual.shape[1] + 1, len(b.prefix), len(b.prefix) + (visual.shape[1] + 1) * len(film)
    blocks = torch.stack([row for tokens in visual for row in (*tokens, tokens.mean(0))])
    written = b.net.get_input_embeddings().weight
    inputs = torch.cat((written[list(b.prefix)], blocks[:, : b.hidden], written[list(text)]))[None]
    first = len(b.prefix)
    places = [*words(0, first), *(p for i in range(len(film)) for p in frame(b, first + i * length(b)))]
    places += words(first + len(film) * length(b), len(text))
    total = len(places)
    mask = torch.full((1, 1, total, total), torch.finfo(b.dtype).min, dtype=b.dtype)
    for q in range(total):
        for k in range(q + 1):
            in_frames = start <= k < ends
            a_carrier = in_frames and (k - start) % size == size - 1
            same_block = in_frames and q < ends and (k - start) // size == (q - start) // size
            if not in_frames or a_carrier or same_block:
                mask[0, 0, q, k] = 0
    at = torch.tensor(places).T[:, None]
    seen = ((torch.arange(total) >= start) & (torch.arange(total) < ends))[None]
    deep = {"visual_pos_masks": seen, "deepstack_visual_embeds": blocks[:, b.hidden :].split(b.hidden, -1)} if b.family.deep else {}
    out = b.net.model.language_model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=at[0] if b.net.config.model_type == LLAVA else at,
        use_cache=False,
        output_attentions=True,
        **deep,
    )
    return b.net.lm_head(out.last_hidden_state[0, ends:]), torch.stack([layer[0, :, ends:] for layer in out.attentions])


# Plain arithmetic


def axes(b: Backbone) -> list[int]:
    """Which axis turns each pair of a head's numbers."""
    half, sections = b.head_dim // 2, b.config.rope_parameters.get("mrope_section")
    if b.net.config.model_type == LLAVA:
        return [0] * half
    if b.net.config.model_type == QWEN2:
        return [axis for axis, count in enumerate(sections) for _ in range(count)]
    return [i % 3 if i < 3 * sections[i % 3] else 0 for i in range(half)]  # interleaved


def turn(b: Backbone, x: Tensor, places: Sequence[Place]) -> Tensor:
    """Rotary embedding of x [heads, tokens, dim]; angles in float32, as transformers has them."""
    dim = x.shape[-1]
    slow = 1.0 / b.config.rope_parameters["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.tensor(places, dtype=torch.float32).reshape(-1, 3)[:, axes(b)] * slow
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., : dim // 2], x[..., dim // 2 :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def plain(b: Backbone, tokens: Tensor, at: Sequence[Place], past: Past, past_at: Seats, prefix: int) -> tuple[Tensor, Past, Tensor]:
    """Qwen2 and Qwen3 from their projections: `tokens` [n, width], the first `prefix` of which do not see the past; the rest is causal.

    Also returns the last token's attention to the past and the tokens [layers, past + n], the mean of its heads.
    """
    groups = b.config.num_attention_heads // b.config.num_key_value_heads
    n, members = len(tokens), len(past_at[0])
    sees = torch.ones(n, members + n, dtype=torch.bool)
    sees[:prefix, :members] = False
    sees[:, members:] = torch.ones(n, n).tril().bool()
    made: Past = []
    looks = []
    x, *deep = tokens.split(b.hidden, -1)
    for i, layer in enumerate(b.net.model.language_model.layers):
        h, attn = layer.input_layernorm(x), layer.self_attn
        q, k, v = (p(h).unflatten(-1, (-1, b.head_dim)).transpose(0, 1) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        if hasattr(attn, "q_norm"):
            q, k = attn.q_norm(q), attn.k_norm(k)
        made.append((k, v))
        old_k, old_v = past[i] if members else (k[:, :0], v[:, :0])
        keys, values = torch.cat((turn(b, old_k, past_at[i]), turn(b, k, at)), 1), torch.cat((old_v, v), 1)
        mixed, looked = [], []
        for head, query in enumerate(turn(b, q, at)):
            score = query @ keys[head // groups].T / b.head_dim**0.5
            weights = score.masked_fill(~sees, -torch.inf).softmax(-1)
            mixed.append(weights @ values[head // groups])
            looked.append(weights[-1])
        looks.append(torch.stack(looked).mean(0))
        x = x + attn.o_proj(torch.cat(mixed, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        x = x + deep[i] if i < len(deep) else x
    return b.net.model.language_model.norm(x), made, torch.stack(looks)


def in_every_layer(b: Backbone, members: int) -> Seats:
    """Where carriers alone stand."""
    return [list(map(word, seats(b, members)))] * len(b.net.model.language_model.layers)


def as_past(carriers: Sequence[Carrier]) -> Past:
    tensor = torch.stack([torch.from_numpy(carrier.kv) for carrier in carriers])  # [carriers, layers, 2, heads, dim]
    return [(tensor[:, i, 0].transpose(0, 1), tensor[:, i, 1].transpose(0, 1)) for i in range(tensor.shape[1])]


def plain_answer(b: Backbone, past: Past, members: int, text: Sequence[int]) -> Tensor:
    """Scores of the token behind a text asked over a memory."""
    written = b.net.get_input_embeddings().weight[[*b.prefix, *text]]
    at = [*words(0, len(b.prefix)), *words(behind(b, members), len(text))]
    hidden, _, _ = plain(b, written, at, past, in_every_layer(b, members), len(b.prefix))
    scores: Tensor = b.net.lm_head(hidden[-1])
    return scores


def plain_stream(b: Backbone, film: Sequence[Frame], limit: int) -> tuple[list[list[tuple[Tensor, Tensor]]], Past, list[int]]:
    """Carriers with eviction, naively: keys and values a layer of each frame's carrier; the last memory; which frames are in it."""
    written = b.net.get_input_embeddings().weight[list(b.prefix)]
    prefix = len(b.prefix)
    kept: list[int] = []
    means: list[Tensor] = []
    carriers: list[list[tuple[Tensor, Tensor]]] = []

    def memory() -> Past:
        layers = range(len(b.net.model.language_model.layers))
        return [(torch.stack([carriers[j][i][0] for j in kept], 1), torch.stack([carriers[j][i][1] for j in kept], 1)) for i in layers]

    for t, each in enumerate(film):
        (visual,) = b.see([each.image])
        means.append(visual.mean(0)[: b.hidden])
        block = torch.cat((pad(written, (0, visual.shape[-1] - b.hidden)), visual, visual.mean(0)[None]))
        at = [*words(0, prefix), *frame(b, behind(b, len(kept)))]
        _, made, _ = plain(b, block, at, memory() if kept else [], in_every_layer(b, len(kept)), prefix)
        carriers.append([(k[:, -1], v[:, -1]) for k, v in made])
        kept.append(t)
        if len(kept) > limit:
            alike = [float(cosine_similarity(means[i], means[j], 0)) for i, j in zip(kept, kept[1:], strict=False)]
            kept.pop(alike.index(max(alike)))
    return carriers, memory(), kept
