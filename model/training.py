"""Trains the embedded model's language half on simulated sites, through the code that serves it.

    python -m model.training .cache/footage .cache/train/tower.safetensors model/embedded --frames 10 --questions 60

Stage 1 ("frames") learns to tell a frame by its carrier alone, to a probe that knows the truth; stage 2 ("questions") learns to
answer over the carriers of clips made by the masked pass (arXiv 2503.09387, 3.4), over random subsets of them and over several
cameras at once, which is what retrieval gives. The vision tower, taught before (`model.pretrain_tower`), stays as it is in
both, so its features are computed once.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipImageProcessorPil

from model import vocabulary
from model.backbone import Backbone, Habits
from model.context import Carriers, attend, by_carrier, clip_pass, embedding_pass, next_position, with_carriers
from model.embedded import SIDE, fresh, tower_of
from model.examples import Batch, Library, batch_of
from model.habits import Spacing
from model.probe import Probe

EVIDENCE_LAYER, EVIDENCE_HEADS = 3, (0, 1)  # these are taught to look at what shows the answer
EVIDENCE_WEIGHT, PROBE_WEIGHT = 0.7, 0.5
HOURS = 0.5  # of the batches with questions, where it is known what is easily mistaken (`model.hours`)
PROBE_RATE = 0.3  # of the learning rate: the probe's many inputs move together
HABITS = Habits(live=32, budget=96, evidence_heads=tuple((EVIDENCE_LAYER, head) for head in EVIDENCE_HEADS))


def untrained(tower: Path, tokenizer: PreTrainedTokenizerFast, habits: Habits = HABITS, seed: int = 0) -> Backbone:
    """The embedded model with a taught tower and a fresh language half."""
    image, video = tokenizer.convert_tokens_to_ids([vocabulary.IMAGE, vocabulary.VIDEO])
    net = fresh(len(tokenizer), image, video, tokenizer.eos_token_id, seed)
    net.model.vision_tower.load_state_dict(tower_of(tower))
    net.model.vision_tower.requires_grad_(False)
    net.set_attn_implementation("eager")
    return Backbone(net, tokenizer, habits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What one batch teaches, and how well it went."""

    probe: Tensor
    told: list[float]  # see Probe.right
    words: Tensor
    evidence: Tensor
    right: Tensor  # [n] bool, answers right word for word
    families: list[str]  # [n] of their questions

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return PROBE_WEIGHT * self.probe + self.words + EVIDENCE_WEIGHT * self.evidence


Teach = Callable[[Backbone, Probe, Library, Batch], Losses]
"""What one batch is taught by."""
Passing = Callable[[Backbone, Tensor], Carriers]
"""What makes clips' visual tokens [clips, frames, tokens, width] their carriers."""


def losses(backbone: Backbone, probe: Probe, library: Library, batch: Batch, passing: Passing = clip_pass) -> Losses:
    """One batch: its clips to carriers, its questions, if it has any, over them."""
    features = library.features(batch)
    made = passing(backbone, backbone.project(features.flatten(0, 1)).unflatten(0, features.shape[:2]))
    scores, truth = probe(made.keys, made.values), library.told(batch)
    words, evidence, right = answers(backbone, made, batch) if batch.families else (torch.zeros(()), torch.zeros(()), torch.ones(0))
    told = Probe.right(scores, truth)
    return Losses(probe=Probe.loss(scores, truth), told=told, words=words, evidence=evidence, right=right, families=batch.families)


def answers(backbone: Backbone, made: Carriers, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the words, loss of the evidence, and which answers [n] are right word for word."""
    past = made.chosen(batch.context, batch.counts).faded()
    length = batch.tokens.shape[1] - 1
    positions = next_position(backbone, past.counts)[:, None] + torch.arange(length)
    mask = attend(backbone, past, length)
    out = backbone.run(backbone.embed(batch.tokens[:, :-1]), positions, with_carriers(backbone, past), mask, attentions=True)
    words, right, asked = words_loss(backbone, out.last_hidden_state, batch.tokens, batch.answer)
    look = out.attentions[EVIDENCE_LAYER][:, list(EVIDENCE_HEADS)]  # [n, heads, length, all that is seen]
    return words, evidence_loss(by_carrier(backbone, past, look), look.sum(-1), batch.evidence, asked), right


def words_loss(backbone: Backbone, hidden: Tensor, tokens: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the words, which answers [n] are right word for word, and where [n, length - 1] an answer's words are told."""
    target = tokens[:, 1:].masked_fill(~answer[:, 1:], -100)
    asked = target >= 0
    logits = backbone.logits(hidden[asked])
    wrong = torch.zeros_like(asked).masked_scatter(asked, logits.argmax(-1) != target[asked])
    words = _each_alike(nn.functional.cross_entropy(logits, target[asked], reduction="none"), asked)
    return words, ~wrong.any(1), asked


def _each_alike(loss: Tensor, asked: Tensor) -> Tensor:
    """Mean over questions of the mean over their answer's tokens, so that long answers do not drown the short."""
    return (loss / asked.sum(1, keepdim=True).expand_as(asked)[asked]).sum() / len(asked)


def evidence_loss(on_carriers: Tensor, on_all: Tensor, evidence: Tensor, asked: Tensor) -> Tensor:
    """With every word of the answer, each evidence head is to look at the carriers that show it, or at none of them.

    Attention `on_carriers` [n, heads, length, carriers] and `on_all` that there is [n, heads, length]; `evidence` [n, heads, carriers].
    """
    shown = (on_carriers * evidence[:, :, None]).sum(-1)
    elsewhere = on_all - on_carriers.sum(-1)
    mass = torch.where(evidence.any(-1)[..., None], shown, elsewhere)
    loss = -(mass + 1e-4).log().mean(1)  # [n, length]
    return _each_alike(loss[asked], asked)


def schedule(done: float, step: int) -> float:
    """Warm up over 100 steps, stay, then fall linearly from 40 % of the time on."""
    return min(1.0, step / 100) * min(1.0, max(0.02, (1 - done) / 0.6))


def batches(library: Library, stage: str, tokenizer: object, seed: str) -> Iterator[Batch]:
    """An endless stream of batches."""
    r = Random(seed)
    while True:
        drawn = "hours" if stage == "questions" and library.resembling is not None and r.random() < HOURS else stage
        yield batch_of(library, drawn, tokenizer, r)


def train(
    backbone: Backbone, probe: Probe, library: Library, stage: str, minutes: float, rate: float, out: Path, teach: Teach = losses
) -> None:
    """Train one stage for a given time, showing progress and saving as it goes."""
    weights = [p for p in backbone.net.parameters() if p.requires_grad]
    groups = [{"params": weights, "share": 1.0}, {"params": [*probe.parameters()], "share": PROBE_RATE}]
    optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    start, shown = time.monotonic(), time.monotonic()
    tally: dict[str, list[float]] = {}
    told: list[list[float]] = []
    for step, batch in enumerate(batches(library, stage, backbone.tokenizer, f"{stage} {start}")):
        done = (time.monotonic() - start) / (60 * minutes)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = group["share"] * rate * schedule(done, step)
        lost = teach(backbone, probe, library, batch)
        optimiser.zero_grad()
        lost.total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        told.append(lost.told)
        for family, hit in zip(lost.families, lost.right.tolist(), strict=True):
            tally.setdefault(family, []).append(hit)
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            figures = f"words {lost.words.item():.3f} evidence {lost.evidence.item():.3f} probe {lost.probe.item():.3f} {_means(told)}"
            print(f"{stage} {done:.0%} step {step} {figures} {_table(tally)}", flush=True)
            tally.clear()
            told.clear()
            save(backbone, out)
    save(backbone, out)


def _means(told: list[list[float]]) -> list[float]:
    """Of each figure, leaving out batches that had nothing of the kind."""
    return [round(float(x), 3) for x in np.nanmean(told, axis=0)]


def _table(tally: dict[str, list[float]]) -> str:
    return " ".join(f"{family} {sum(hits) / len(hits):.2f}/{len(hits)}" for family, hits in sorted(tally.items()))


def save(backbone: Backbone, out: Path) -> None:
    """Write Hugging Face layout: config, weights (safetensors), tokenizer, picture processor, and how the model is to be used."""
    backbone.net.save_pretrained(out)
    backbone.tokenizer.save_pretrained(out)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(out)
    backbone.habits.save(out)


def main(
    footage: Path,
    tower: Path,
    out: Path,
    frames: float = 10,
    questions: float = 60,
    rate: float = 1.2e-3,
    resume: Path | None = None,
    resembling: Annotated[Path | None, typer.Option(help="What model.hours wrote: also ask over what is easily mistaken.")] = None,
    spacing: Annotated[Spacing, typer.Option(help="How far apart carriers stand.")] = HABITS.spacing,
    patches: Annotated[int, typer.Option(help="Visual tokens kept beside each carrier.")] = 0,
    alone: Annotated[bool, typer.Option(help="Carriers that never saw their frames: stage 1 of the paper.")] = False,
) -> None:
    """Train both stages for the given minutes; `--resume` starts from a saved model's language half instead of a fresh one."""
    backbone = beginning(tower, resume, replace(HABITS, spacing=spacing, patches=patches))
    library = Library(footage, backbone)
    library.resembling = None if resembling is None else np.load(resembling, allow_pickle=False)
    probe = Probe(backbone.spec.layers, backbone.spec.kv_heads, backbone.head_dim)
    teach = partial(losses, passing=embedding_pass) if alone else losses
    if frames:
        train(backbone, probe, library, "frames", frames, 1.5e-3, out, teach)
    train(backbone, probe, library, "questions", questions, rate, out, teach)


def beginning(tower: Path, resume: Path | None, habits: Habits = HABITS) -> Backbone:
    """The embedded model to be trained: with a saved model's language half and words, or with fresh ones."""
    if not resume:
        return untrained(tower, vocabulary.build(), habits)
    saved = Backbone.load(resume)  # by transformers, since its names in files are not those in memory
    backbone = untrained(tower, saved.tokenizer, habits)  # whose numbers change with the simulator's questions, if built anew
    kept = {k: v for k, v in saved.net.state_dict().items() if "vision_tower" not in k}
    backbone.net.load_state_dict(kept | _tower(backbone))
    return backbone


def _tower(backbone: Backbone) -> dict[str, Tensor]:
    return {k: v for k, v in backbone.net.state_dict().items() if "vision_tower" in k}


if __name__ == "__main__":
    typer.run(main)
