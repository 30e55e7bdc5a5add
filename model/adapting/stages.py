"""The two stages of training (arXiv 2503.09387, 3.4), as what each makes of a clip and which adapters each teaches.

1. A frame is its carrier's embedding alone; no visual token reaches the language model. Tower and language model learn to put
   what a frame shows into the mean of its tokens, and to read it there.
2. The masked pass over whole frames and their carriers, which is what streaming gives. The language model learns to gather a
   frame in its carrier's keys and values, and to answer from those.

Both end in carriers as the memory holds them, and both are asked in the same way over parts of them, as retrieval gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from model.adapting.clips import Asked, Clip
from model.backbone import Backbone
from model.context import Carriers, attend, clip_pass, embedding_pass, next_position, with_carriers

LANGUAGE = "model.language_model.layers"
KEEP = (1.0, 1.0, 0.75, 0.5)  # shares of a clip's carriers that a question is over, where any part will do


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How a clip's visual tokens [1, frames, tokens, width] become carriers, and what learns."""

    carriers: Callable[[Backbone, Tensor], Carriers]
    tower: bool  # whether the vision tower learns too
    rate: float  # the learning rate of the paper's public code


STAGES = {1: Stage(carriers=embedding_pass, tower=True, rate=1e-5), 2: Stage(carriers=clip_pass, tower=False, rate=5e-6)}


def parts(backbone: Backbone, stage: Stage) -> list[str]:
    """Names of the modules below which adapters learn in a stage."""
    return [LANGUAGE, backbone.family.tower] if stage.tower else [LANGUAGE]


def loss(backbone: Backbone, stage: Stage, clip: Clip, r: Random) -> Tensor:
    """Mean over a clip's questions of the mean cross-entropy of their answers' tokens; `r` chooses parts of the clip."""
    with torch.set_grad_enabled(stage.tower):
        tokens = backbone.see(clip.frames)
    parts = [torch.tensor(_part(asked, len(clip.frames), r), device=backbone.device) for asked in clip.asked]
    counts = torch.tensor([len(part) for part in parts], device=backbone.device)
    past = stage.carriers(backbone, tokens[None]).chosen(pad_sequence(parts, batch_first=True), counts).faded()
    return answer_loss(backbone, past, clip.asked)


def answer_loss(backbone: Backbone, past: Carriers, asked: Sequence[Asked]) -> Tensor:
    """What answering costs, over one set of carriers for each question; every answer weighs the same, however long."""
    tokens, answers = _texts(backbone, asked)
    length = tokens.shape[1] - 1
    positions = next_position(backbone, past.counts)[:, None] + torch.arange(length, device=backbone.device)
    out = backbone.run(backbone.embed(tokens[:, :-1]), positions, with_carriers(backbone, past), attend(backbone, past, length))
    told = answers[:, 1:]
    each = cross_entropy(backbone.logits(out.last_hidden_state[told]).float(), tokens[:, 1:][told], reduction="none")
    share = 1 / told.sum(1, keepdim=True).expand_as(told)[told]
    return (each * share).sum() / len(asked)


def _texts(backbone: Backbone, asked: Sequence[Asked]) -> tuple[Tensor, Tensor]:
    """Tokens [n, longest] of questions, answers and their ends, padded behind, and which of them [n, longest] are the answers'."""
    tokenizer: Any = backbone.tokenizer
    questions = [backbone.suffix(each.question) for each in asked]
    answers = [[*tokenizer(each.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for each in asked]
    longest = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True))
    tokens = torch.full((len(asked), longest), tokenizer.eos_token_id)
    told = torch.zeros(len(asked), longest, dtype=torch.bool)
    for i, (q, a) in enumerate(zip(questions, answers, strict=True)):
        tokens[i, : len(q) + len(a)] = torch.tensor([*q, *a])
        told[i, len(q) : len(q) + len(a)] = True
    return tokens.to(backbone.device), told.to(backbone.device)


def _part(asked: Asked, frames: int, r: Random) -> list[int]:
    """The frames that a question is over, in order of time; never none."""
    if asked.over is not None:
        return [*asked.over]
    keep = r.choice(KEEP)
    return [i for i in range(frames) if r.random() < keep] or [r.randrange(frames)]
