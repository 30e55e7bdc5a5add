"""Trains the embedded model's language half on simulated sites, through the code that serves it.

    python -m model.training .cache/footage .cache/train/tower.safetensors model/embedded --captions 10 --questions 60

Stage 1 learns to tell a frame from its carrier alone; stage 2 learns to answer over the carriers of clips made by the masked
pass (arXiv 2503.09387, 3.4), over random subsets of them and over several cameras at once, which is what retrieval gives. The
vision tower, taught before (`model.pretrain_tower`), stays as it is in both, so its features are computed once.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
import typer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import SiglipImageProcessorPil

from model import vocabulary
from model.backbone import Backbone, Habits
from model.context import Carriers, attend, clip_pass, next_position, with_carriers
from model.embedded import SIDE, fresh
from model.examples import Batch, Library, batch_of

EVIDENCE_LAYER, EVIDENCE_HEADS = 2, (0, 1)  # these are taught to look at what shows the answer
EVIDENCE_WEIGHT = 0.7
HABITS = Habits(live=32, budget=96, evidence_heads=tuple((EVIDENCE_LAYER, head) for head in EVIDENCE_HEADS))


def untrained(tower: Path, seed: int = 0) -> Backbone:
    """The embedded model with a taught tower and a fresh language half."""
    tokenizer = vocabulary.build()
    image, video = tokenizer.convert_tokens_to_ids([vocabulary.IMAGE, vocabulary.VIDEO])
    net = fresh(len(tokenizer), image, video, tokenizer.eos_token_id, seed)
    net.model.vision_tower.load_state_dict(load_file(tower))
    net.model.vision_tower.requires_grad_(False)
    net.set_attn_implementation("eager")
    return Backbone(net, tokenizer, HABITS)


def losses(backbone: Backbone, library: Library, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the words, loss of the evidence, and which answers [n] are right word for word."""
    features = library.features(batch)
    keys, values = clip_pass(backbone, backbone.project(features.flatten(0, 1)).unflatten(0, features.shape[:2]))
    flat_keys, flat_values = (t.permute(0, 2, 1, 3, 4).flatten(2, 3) for t in (keys, values))  # [layers, heads, clips * frames, dim]
    past = Carriers(
        keys=flat_keys[:, :, batch.context].permute(0, 2, 1, 3, 4),
        values=flat_values[:, :, batch.context].permute(0, 2, 1, 3, 4),
        counts=batch.counts,
    )
    length = batch.tokens.shape[1] - 1
    positions = next_position(backbone, past.counts)[:, None] + torch.arange(length)
    mask = attend(backbone, past, length)
    out = backbone.run(backbone.embed(batch.tokens[:, :-1]), positions, with_carriers(backbone, past), mask, attentions=True)
    logits = backbone.logits(out.last_hidden_state)
    target = batch.tokens[:, 1:].masked_fill(~batch.answer[:, 1:], -100)
    words = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    right = ((logits.argmax(-1) == target) | (target == -100)).all(1)
    return words, evidence_loss(backbone, out.attentions, batch), right


def evidence_loss(backbone: Backbone, attentions: tuple[Tensor, ...], batch: Batch) -> Tensor:
    """Where the answer begins, the evidence heads are to look at the carriers that show it, or at none of them."""
    prefix, carriers = len(backbone.prefix), batch.context.shape[1]
    rows = torch.arange(len(batch.counts))
    look = attentions[EVIDENCE_LAYER][rows, :, batch.begins][:, list(EVIDENCE_HEADS)]  # [n, heads, prefix + carriers + text]
    on_carriers = look[:, :, prefix : prefix + carriers]
    shown = (on_carriers * batch.evidence[:, None]).sum(-1)
    elsewhere = look.sum(-1) - on_carriers.sum(-1)
    mass = torch.where(batch.evidence.any(1)[:, None], shown, elsewhere)
    return -(mass + 1e-4).log().mean()


def schedule(done: float, step: int) -> float:
    """Warm up over 100 steps, stay, then fall linearly from 40 % of the time on."""
    return min(1.0, step / 100) * min(1.0, max(0.02, (1 - done) / 0.6))


def batches(library: Library, stage: str, tokenizer: object, seed: str) -> Iterator[Batch]:
    """An endless stream of batches."""
    r = Random(seed)
    while True:
        yield batch_of(library, stage, tokenizer, r)


def train(backbone: Backbone, library: Library, stage: str, minutes: float, rate: float, out: Path) -> None:
    """Train one stage for a given time, showing progress and saving as it goes."""
    weights = [p for p in backbone.net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    start, shown = time.monotonic(), time.monotonic()
    tally: dict[str, list[float]] = {}
    for step, batch in enumerate(batches(library, stage, backbone.tokenizer, f"{stage} {start}")):
        done = (time.monotonic() - start) / (60 * minutes)
        if done >= 1:
            break
        optimiser.param_groups[0]["lr"] = rate * schedule(done, step)
        words, evidence, right = losses(backbone, library, batch)
        optimiser.zero_grad()
        (words + EVIDENCE_WEIGHT * evidence).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        for family, hit in zip(batch.families, right.tolist(), strict=True):
            tally.setdefault(family, []).append(hit)
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"{stage} {done:.0%} step {step} words {words.item():.3f} evidence {evidence.item():.3f} {_table(tally)}", flush=True)
            tally.clear()
            save(backbone, out)
    save(backbone, out)


def _table(tally: dict[str, list[float]]) -> str:
    return " ".join(f"{family} {sum(hits) / len(hits):.2f}/{len(hits)}" for family, hits in sorted(tally.items()))


def save(backbone: Backbone, out: Path) -> None:
    """Write Hugging Face layout: config, weights (safetensors), tokenizer, picture processor, and how the model is to be used."""
    backbone.net.save_pretrained(out)
    backbone.tokenizer.save_pretrained(out)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(out)
    backbone.habits.save(out)


def main(
    footage: Path, tower: Path, out: Path, captions: float = 10, questions: float = 60, rate: float = 1.2e-3, resume: Path | None = None
) -> None:
    """Train both stages for the given minutes; `--resume` starts from a saved model's language half instead of a fresh one."""
    backbone = untrained(tower)
    if resume:
        saved = Backbone.load(resume).net.state_dict()  # by transformers, since its names in files are not those in memory
        backbone.net.load_state_dict({k: v for k, v in saved.items() if "vision_tower" not in k} | _tower(backbone))
    library = Library(footage, backbone)
    if captions:
        train(backbone, library, "captions", captions, 2e-3, out)
    train(backbone, library, "questions", questions, rate, out)


def _tower(backbone: Backbone) -> dict[str, Tensor]:
    return {k: v for k, v in backbone.net.state_dict().items() if "vision_tower" in k}


if __name__ == "__main__":
    typer.run(main)
