"""Trains what carriers are measured against: the same model, shown every visual token of every frame (`model.dense`).

    python -m model.dense_training .cache/footage .cache/train/tower.safetensors .cache/train/dense --resume .cache/train/model

The same footage, batches, questions and schedule as `model.training`; only what a question is asked over differs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import DynamicCache

from model.backbone import Backbone
from model.examples import Batch, Library
from model.probe import Probe
from model.training import EVIDENCE_HEADS, EVIDENCE_LAYER, Losses, beginning, evidence_loss, train, words_loss

SHARE = 3  # of a batch's contexts so many-th: each costs a pass of its own, and small steps teach as much in less time


def losses(backbone: Backbone, probe: Probe, library: Library, batch: Batch) -> Losses:
    """One batch: each of its contexts as one causal pass over whole frames, and the questions behind it. There is nothing for a probe."""
    features = library.features(batch)
    frames = backbone.project(features.flatten(0, 1))
    contexts = list(_together(batch))
    some = [contexts[i] for i in torch.randperm(len(contexts))[: -(-len(contexts) // SHARE)]]
    told = [_answers(backbone, frames, batch, rows) for rows in some]
    weights = torch.tensor([float(len(rows)) for rows in some])
    words, evidence = (torch.stack(each) @ (weights / weights.sum()) for each in list(zip(*told, strict=True))[:2])
    families = [batch.families[i] for rows in some for i in rows]
    right = torch.cat([right for _, _, right in told])
    return Losses(probe=torch.zeros(()), told=[0.0], words=words, evidence=evidence, right=right, families=families)


def _together(batch: Batch) -> Iterator[Tensor]:
    """The rows [n] of questions over the same frames, in their order."""
    keys = torch.cat((batch.counts[:, None], batch.context), dim=1)
    changes = (keys[1:] != keys[:-1]).any(1).nonzero().flatten() + 1
    yield from torch.arange(len(keys)).tensor_split(changes)


def _answers(backbone: Backbone, frames: Tensor, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `model.training.answers`, of questions over the same frames."""
    count = int(batch.counts[rows[0]])
    cache = _read(backbone, frames[batch.context[rows[0], :count]])
    start = cache.get_seq_length()
    tokens, answer = batch.tokens[rows], batch.answer[rows]
    asking = tokens[:, :-1]
    n, length = asking.shape
    positions = (start + torch.arange(length)).repeat(n)[None]
    out = backbone.run(backbone.embed(asking.reshape(1, -1)), positions, cache, _apart(n, length, start), attentions=True)
    words, right, asked = words_loss(backbone, out.last_hidden_state.unflatten(1, (n, length))[0], tokens, answer)
    look = out.attentions[EVIDENCE_LAYER][0, list(EVIDENCE_HEADS)].unflatten(1, (n, length)).transpose(0, 1)
    prefix, size = len(backbone.prefix), backbone.tokens_per_frame
    on_frames = look[..., prefix : prefix + count * size].unflatten(-1, (count, size)).sum(-1)
    return words, evidence_loss(on_frames, look.sum(-1), batch.evidence[rows, :, :count], asked), right


def _apart(n: int, length: int, start: int) -> Tensor:
    """Mask [1, n * length, start + n * length] of questions side by side: each sees what they are about, and causally itself."""
    own = torch.block_diag(*[torch.ones(length, length).tril()] * n).bool()
    return torch.cat((torch.ones(n * length, start, dtype=torch.bool), own), dim=1)[None]


def _read(backbone: Backbone, frames: Tensor) -> DynamicCache:
    """Frames [count, tokens, width] behind the prefix, each token seeing all before it."""
    film = backbone.family.film(frames)
    inputs = torch.cat((backbone.embed(torch.tensor(backbone.prefix)), film))[None]
    length, cache = inputs.shape[1], DynamicCache()
    backbone.net.set_attn_implementation("sdpa")  # nothing looks at this attention, and eager takes several times as long
    backbone.run(inputs, torch.arange(length)[None], cache, None)
    backbone.net.set_attn_implementation("eager")
    return cache


def main(footage: Path, tower: Path, out: Path, resume: Annotated[Path, typer.Option()], minutes: float = 60, rate: float = 1.2e-3) -> None:
    """Train for the given minutes, from a saved model's language half."""
    backbone = beginning(tower, resume)
    probe = Probe(backbone.spec.layers, backbone.spec.kv_heads, backbone.head_dim)
    train(backbone, probe, Library(footage, backbone), "questions", minutes, rate, out, losses)


if __name__ == "__main__":
    typer.run(main)
