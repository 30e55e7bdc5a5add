"""An answer's words, one after the other."""

import torch
from torch import Tensor
from transformers import DynamicCache

from model.backbone import Backbone


def greedy(backbone: Backbone, logits: Tensor, cache: DynamicCache, position: int, longest: int) -> tuple[list[int], float]:
    """The likeliest next token, again and again, until the answer ends or has `longest` tokens; and how sure all of them were.

    `logits` [words] are the first token's scores and `position` its place. All that `cache` holds is looked at; it grows.
    """
    tokens: list[int] = []
    sureness = 1.0
    while len(tokens) < longest:
        odds = logits.double().softmax(-1)
        token = int(odds.argmax())
        sureness *= float(odds[token])
        if token in backbone.ends:
            break
        tokens.append(token)
        logits = _next(backbone, token, position + len(tokens) - 1, cache)
    return tokens, sureness


def _next(backbone: Backbone, token: int, position: int, cache: DynamicCache) -> Tensor:
    tokens, positions = (torch.tensor([[number]], device=backbone.device) for number in (token, position))
    mask = torch.ones(1, 1, cache.get_seq_length() + 1, dtype=torch.bool, device=backbone.device)
    return backbone.logits(backbone.run(backbone.embed(tokens), positions, cache, mask).last_hidden_state[0, -1])
