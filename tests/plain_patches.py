"""VideoScan+ without model.context: patches chosen within one masked pass, and streamed by plain arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from plain_arithmetic import Past, Place, Seats, behind, frame, length, plain, seats, turn, word, words
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from model.backbone import Backbone
from pipeline.core import Frame


@dataclass
class Member:
    """A frame in a memory: a layer each, its carrier's keys and values, and those of its patches with their places in the frame."""

    carrier: Past
    patches: Past
    places: list[list[int]]
    mean: Tensor


def chosen(b: Backbone, looks: Tensor) -> list[int]:
    """The patches that a carrier attends to most, of its attention to all [tokens]."""
    return sorted(sorted(range(len(looks)), key=lambda place: -float(looks[place]))[: b.patches])


def padded(b: Backbone, tokens: Sequence[int], width: int) -> Tensor:
    return pad(b.net.get_input_embeddings().weight[list(tokens)], (0, width - b.hidden))


def plus_pass(b: Backbone, film: Sequence[Frame], text: Sequence[int]) -> tuple[Tensor, Past, list[list[list[int]]], Tensor]:
    """One pass over [prefix][E1 C1]..[En Cn][text]; who comes later sees of a frame its carrier and, in each layer, its patches.

    In the training-free mode nobody sees carriers, and the next frame begins where one stands.

    Returns logits [text, words], keys (before rotary embedding) and values a layer, the places chosen [layers][frames][patches], and the
    last word's attention to each frame [layers, heads, frames].
    """
    visual = b.see([each.image for each in film])
    size, start, width = visual.shape[1] + 1, len(b.prefix), visual.shape[2]
    blocks = torch.stack([row for tokens in visual for row in (*tokens, tokens.mean(0))])
    x, *deep = torch.cat((padded(b, b.prefix, width), blocks, padded(b, text, width))).split(b.hidden, -1)
    taught = b.habits.mode == "carriers"
    step = length(b) if taught else length(b) - 1
    at = [*words(0, start), *(p for i in range(len(film)) for p in frame(b, start + i * step))]
    at += words(start + len(film) * step, len(text))
    total, ends = len(at), start + size * len(film)
    frame_of = torch.tensor([(t - start) // size if start <= t < ends else -1 for t in range(total)])
    is_carrier = torch.tensor([start <= t < ends and (t - start) % size == size - 1 for t in range(total)])
    no_patches = (frame_of[None] < 0) | (is_carrier & taught)[None] | (frame_of[:, None] == frame_of[None])
    made, places, looks = [], [], []
    for i, layer in enumerate(b.net.model.language_model.layers):
        sees = torch.ones(total, total).tril().bool() & no_patches
        h, attn = layer.input_layernorm(x), layer.self_attn
        q, k, v = (p(h).unflatten(-1, (-1, b.head_dim)).transpose(0, 1) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        if hasattr(attn, "q_norm"):
            q, k = attn.q_norm(q), attn.k_norm(k)
        groups = len(q) // len(k)
        scores = turn(b, q, at) @ turn(b, k, at).repeat_interleave(groups, 0).transpose(1, 2) / b.head_dim**0.5
        places.append([])
        for begin in range(start, ends, size):
            carrier = begin + size - 1
            own = scores[:, carrier].masked_fill(~sees[carrier], -torch.inf).softmax(-1).mean(0)[begin:carrier]
            places[-1].append(chosen(b, own))
            sees[carrier + 1 :, [begin + place for place in places[-1][-1]]] = True
        weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
        looks.append(weights[:, -1, start:ends].unflatten(-1, (len(film), size)).sum(-1))
        made.append((k, v))
        x = x + attn.o_proj((weights @ v.repeat_interleave(groups, 0)).transpose(0, 1).flatten(1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        x = x + deep[i] if i < len(deep) else x
    hidden = b.net.model.language_model.norm(x)
    return b.net.lm_head(hidden[ends:]), made, places, torch.stack(looks)


def past_of(b: Backbone, members: Sequence[Member], faded: Sequence[int] = ()) -> tuple[Past, Seats]:
    """All that a memory lets one see; the members `faded` have lost their patches."""
    past, at = [], []
    for layer in range(len(b.net.model.language_model.layers)):
        keys, values = [], []
        places: list[Place] = []
        for rank, (member, seat) in enumerate(zip(members, seats(b, len(members)), strict=True)):
            own = [] if rank in faded else member.places[layer]
            if own:
                keys.append(member.patches[layer][0])
                values.append(member.patches[layer][1])
            if b.habits.spacing == "frame-length":
                places += [frame(b, len(b.prefix) + rank * length(b))[place] for place in own]
            else:
                places += [word(seat - b.patches + i) for i in range(len(own))]
            keys.append(member.carrier[layer][0])
            values.append(member.carrier[layer][1])
            places.append(word(seat))
        past.append((torch.cat(keys, 1), torch.cat(values, 1)) if members else ())
        at.append(places)
    return past, at  # type: ignore[return-value]  # the empty tuple of an empty memory is not looked at


def plus_stream(b: Backbone, film: Sequence[Frame], limit: int) -> tuple[list[Member], list[int]]:
    """Each frame's member, and which are in the memory at the end, by the paper's policy."""
    members: list[Member] = []
    kept: list[int] = []
    for t, each in enumerate(film):
        (visual,) = b.see([each.image])
        n, prefix = len(visual), len(b.prefix)
        block = torch.cat((padded(b, b.prefix, visual.shape[1]), visual, visual.mean(0)[None]))
        at = [*words(0, prefix), *frame(b, behind(b, len(kept)))]
        _, made, looks = plain(b, block, at, *past_of(b, [members[i] for i in kept]), prefix)
        places = [chosen(b, layer[-n - 1 : -1]) for layer in looks]
        patches = [(k[:, prefix:][:, own], v[:, prefix:][:, own]) for (k, v), own in zip(made, places, strict=True)]
        carrier = [(k[:, -1:], v[:, -1:]) for k, v in made]
        members.append(Member(carrier=carrier, patches=patches, places=places, mean=visual.mean(0)[: b.hidden]))
        kept.append(t)
        if len(kept) > limit:
            pairs = zip(kept, kept[1:], strict=False)
            alike = [float(cosine_similarity(members[i].mean, members[j].mean, 0)) for i, j in pairs]
            kept.pop(alike.index(max(alike)))
    return members, kept


def plus_answer(b: Backbone, members: Sequence[Member], text: Sequence[int], faded: Sequence[int] = ()) -> Tensor:
    """Scores of the token behind a text asked over a memory."""
    written = b.net.get_input_embeddings().weight[[*b.prefix, *text]]
    at = [*words(0, len(b.prefix)), *words(behind(b, len(members)), len(text))]
    hidden, _, _ = plain(b, written, at, *past_of(b, members, faded), len(b.prefix))
    scores: Tensor = b.net.lm_head(hidden[-1])
    return scores
