"""Trains the head that says which carriers a question is about, after the model and without changing it.

    python -m model.train_relevance .cache/footage model/embedded --minutes 10 --crowded .cache/crowded

It takes simulated sites and their mirror images, whose truth is known: what each patch and frame shows, and what each question is about.
Of what it was not taught the head is surer than it is right. In the end its logits are scaled by that (Guo et al. 2017, arXiv 1706.04599),
as an answer weighs them against how much there is to be mistaken about.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_model
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from model.backbone import Backbone
from model.examples import Library
from model.probe import SUBJECTS
from model.relevance import CLASSES, FILE, Relevance, load, read
from pipeline.core import VECTOR
from simulator.questions import FAMILIES, ask
from simulator.visits import CAMERAS, MOVERS
from simulator.watching import Subject, Watch

RATE, WARM = 2e-3, 100  # of learning, and steps until it is reached
FRAMES, ASKED = 256, 128  # of a step
CHECKED = 8192  # frames
GROUPS = (*SUBJECTS, *((kind, "") for kind in MOVERS), ("", ""))  # what a vector's numbers are about: each subject, each kind, anything
_WEIGHT = torch.tensor([1.0] * (CLASSES - 1) + [0.25])  # of what a patch shows; nothing, the last, is there often enough

Drawn = tuple[Tensor, Tensor, Tensor]
"""What `Library.drawn` gives."""


def asked(library: Library, site: int, r: Random) -> list[tuple[str, tuple[Subject, ...]]]:
    """Questions that a site gives cause for, with what they are about."""
    shots = [shot for camera in range(len(CAMERAS)) for shot in library.shots(site, camera, sorted(r.sample(range(40), 12)), False)]
    drawn = (ask(Watch(shots), r, family) for family in FAMILIES for _ in range(4))
    alone = (ask(Watch(shots[:12]), r, family) for family in FAMILIES for _ in range(2))
    return [(quiz.text, quiz.about) for quiz in (*drawn, *alone) if quiz]


def shares(about: tuple[Subject, ...]) -> NDArray[np.float32]:
    """How much a question is about each of GROUPS [len(GROUPS)], 1 in all."""
    return np.array([sum((s.kind, s.colour) == group for s in about) / len(about) for group in GROUPS], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Questions:
    """Questions as read [n, 2 * hidden], and how much each is about each of GROUPS [n, GROUPS]."""

    states: Tensor
    shares: Tensor

    @classmethod
    def over(cls, backbone: Backbone, library: Library, sites: range, r: Random) -> "Questions":
        """What some sites give cause for."""
        drawn = [each for site in track(sites, description="asking") for each in asked(library, site, r)]
        states = {text: read(backbone, text) for text in dict.fromkeys(text for text, _ in drawn)}
        parts = torch.from_numpy(np.stack([shares(about) for _, about in drawn]))
        return cls(states=torch.stack([states[text] for text, _ in drawn]), shares=parts)

    def drawn(self, count: int) -> "Questions":
        """Some of them."""
        some = torch.randint(len(self.states), (count,))
        return Questions(states=self.states[some], shares=self.shares[some])


def groups() -> Tensor:
    """Which of SUBJECTS make each group, as the head has it [VECTOR - 1, CLASSES]."""
    rows = torch.zeros(VECTOR - 1, CLASSES)
    for row, (kind, colour) in zip(rows, GROUPS, strict=True):
        row[: len(SUBJECTS)] = torch.tensor([kind in ("", k) and colour in ("", c) for k, c in SUBJECTS])
    return rows


def _judged(head: Relevance, shown: Tensor, frames: Tensor, questions: Questions, about: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of questions and frames [questions, frames]: the logit of showing what is asked about, the truth, and whether it is sure."""
    meant = questions.shares @ head.groups[:, : len(SUBJECTS)]
    truth = meant @ (shown == 1).float().T > 0
    arguable = (meant @ shown.isnan().float().T > 0) & ~truth
    return head.questions(about) @ frames.T, truth, ~arguable


def _loss(head: Relevance, drawn: Drawn, questions: Questions) -> tuple[Tensor, Tensor, Tensor]:
    """Patches are taught what they show, questions what they are about, and both whether a frame shows that."""
    features, shown, covering = drawn
    looks, about = head.patches(features), head.about(questions.states)
    of_patches = cross_entropy(looks.flatten(0, 1), covering.flatten() % CLASSES, _WEIGHT)  # -1, nothing, is the last class
    of_questions = cross_entropy(about[:, :-1], questions.shares)
    logits, truth, certain = _judged(head, shown, head.frames(looks), questions, about)
    of_frames = binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    return of_patches + of_questions + (of_frames * certain).sum() / certain.sum(), logits, truth


def fitted(logits: Tensor, truth: Tensor) -> tuple[float, float]:
    """Slope and offset that make logits as sure as they are right, all of them [n], of what is so or not [n]."""
    line, so = torch.tensor([1.0, 0.0], requires_grad=True), truth.float()
    optimiser = torch.optim.LBFGS([line], max_iter=50)

    def loss() -> float:
        optimiser.zero_grad()
        told = binary_cross_entropy_with_logits(line[0] * logits + line[1], so)
        told.backward()
        return told.item()

    optimiser.step(loss)
    slope, offset = line.tolist()
    return slope, offset


@torch.no_grad()
def calibrate(head: Relevance, drawn: Drawn, questions: Questions) -> None:
    """Make a head as sure as it is right on frames and questions that it was not taught."""
    features, shown, _ = drawn
    frames, about = head.frames(head.patches(features)), head.about(questions.states)
    logits, truth, certain = _judged(head, shown, frames, questions, about)
    with torch.enable_grad():
        slope, offset = fitted(logits[certain], truth[certain])
    head.rescale(slope, offset)
    print(f"a logit x is {slope:.3f} x {offset:+.3f}")


def main(
    footage: Path,
    folder: Path,
    minutes: float = 10,
    sites: int | None = None,
    crowded: Annotated[Path | None, typer.Option(help="Footage by model.footage --crowded, of which half of the frames are.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the head that is there.")] = False,
) -> None:
    """Train a model's head on simulated sites, all that there are or so many, and save it beside the weights; the last tenth checks it."""
    backbone = Backbone.load(folder)
    head = _beginning(backbone, folder, resume)
    library = Library(footage, backbone, sites)
    crowds = Library(crowded, backbone) if crowded else None
    r, split = Random("relevance"), len(library) * 9 // 10
    taught, checked = range(split), range(split, len(library))
    questions, checks = (Questions.over(backbone, library, each, r) for each in (taught, checked))
    unseen = library.drawn(checked, CHECKED)
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.05)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        loss, *_ = _loss(head, _drawn(library, taught, crowds), questions.drawn(ASKED))
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, step / WARM) * (1 - done)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if step % 250 == 0:
            print(f"{done:.0%} step {step} loss {loss.item():.4f} {_check(head, unseen, checks)}", flush=True)
    calibrate(head, unseen, checks)
    save_model(head, str(folder / FILE))


def _beginning(backbone: Backbone, folder: Path, resume: bool) -> Relevance:
    """A head to be trained: fresh, or the model's own. Raises BadParameter where there is none."""
    head = load(backbone, folder) if resume else Relevance.of(backbone)
    if head is None:
        raise typer.BadParameter(f"{folder} has no {FILE} to go on from")
    head.groups.copy_(groups())
    return head.train().requires_grad_(True)


def _drawn(library: Library, taught: range, crowds: Library | None) -> Drawn:
    """The frames of a step: of the sites that are taught, half of them crowded where there are such."""
    if crowds is None:
        return library.drawn(taught, FRAMES)
    parts = library.drawn(taught, FRAMES // 2), crowds.drawn(range(len(crowds)), FRAMES // 2)
    features, shown, covering = (torch.cat(pair) for pair in zip(*parts, strict=True))
    return features, shown, covering


@torch.inference_mode()
def _check(head: Relevance, drawn: Drawn, questions: Questions) -> str:
    loss, logits, truth = _loss(head, drawn, questions)
    found = (logits[truth] > 0).float().mean()
    false = (logits[~truth] > 0).float().mean()
    return f"held-out loss {loss:.4f}, of the relevant found {found:.3f}, of the others {false:.5f}"


if __name__ == "__main__":
    typer.run(main)
