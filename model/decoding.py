"""Reading questions, and an answer's words one after the other."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from model.backbone import Backbone
from model.context import Carriers, attend, next_position, with_carriers

LONGEST = 48  # tokens of an answer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Read:
    """Questions, read to where their answers begin."""

    logits: Tensor  # [batch, words] of each answer's first token
    cache: DynamicCache  # `[prefix][carriers][question]`, padded
    seen: Tensor  # [batch, columns of the cache], true for what an answer looks at: all but padding
    positions: Tensor  # [batch] of each answer's first token
    attention: Tensor | None  # [layers, batch, heads, columns] from where each answer begins


def read(
    backbone: Backbone, carriers: Carriers, suffixes: Sequence[Sequence[int]], prefix: DynamicCache, *, attention: bool = False
) -> Read:
    """Read one question over each set of carriers, all in one pass. A suffix is `Backbone.suffix` of a question.

    `prefix` as in `with_carriers`. A model that attends in fused kernels cannot tell its `attention`.
    """
    device = backbone.device
    lengths = torch.tensor([len(each) for each in suffixes], device=device)
    width = max(map(len, suffixes))
    padded = torch.tensor([[*each, *[0] * (width - len(each))] for each in suffixes], device=device)
    at, begin = torch.arange(width, device=device), next_position(backbone, carriers.counts)
    cache = with_carriers(backbone, carriers, prefix)
    mask = attend(backbone, carriers, width)  # a question's padding is behind it: nothing of it is seen but by itself
    out = backbone.run(backbone.embed(padded), begin[:, None] + at, cache, mask, attentions=attention)
    rows, last = torch.arange(len(suffixes), device=device), lengths - 1
    seen = mask[:, -1].clone()
    seen[:, -width:] = at < lengths[:, None]
    return Read(
        logits=backbone.logits(out.last_hidden_state[rows, last]),
        cache=cache,
        seen=seen,
        positions=begin + lengths,
        attention=torch.stack([layer[rows, :, last] for layer in out.attentions]) if attention else None,
    )


def likeliest(logits: Tensor, never: Collection[int] = ()) -> tuple[Tensor, Tensor]:
    """The likeliest word of each row of scores [..., words] that is not one of `never`, and its probability in float64."""
    scores = logits.double()
    if never:
        scores = scores.index_fill(-1, torch.tensor(sorted(never), device=scores.device), -torch.inf)
    probability, word = scores.softmax(-1).max(-1)
    return word, probability


def greedy(backbone: Backbone, logits: Tensor, cache: DynamicCache, position: int, longest: int) -> tuple[list[int], float]:
    """The likeliest next token, again and again, until the answer ends or has `longest` tokens; and how sure all of them were.

    It does not end before its first: a question is to get some answer, however unlikely.
    `logits` [words] are the first token's scores and `position` its place. All that `cache` holds is looked at; it grows.
    """
    tokens: list[int] = []
    sureness = 1.0
    while len(tokens) < longest:
        word, probability = likeliest(logits, () if tokens else backbone.ends)
        token = int(word)
        sureness *= float(probability)
        if token in backbone.ends:
            break
        tokens.append(token)
        logits = _next(backbone, token, position + len(tokens) - 1, cache)
    return tokens, sureness


def _next(backbone: Backbone, token: int, position: int, cache: DynamicCache) -> Tensor:
    tokens, positions = (torch.tensor([[number]], device=backbone.device) for number in (token, position))
    mask = torch.ones(1, 1, cache.get_seq_length() + 1, dtype=torch.bool, device=backbone.device)
    return backbone.logits(backbone.run(backbone.embed(tokens), positions, cache, mask).last_hidden_state[0, -1])
