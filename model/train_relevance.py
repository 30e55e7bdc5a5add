"""Trains the head that says which carriers a question is about, after the model and without changing it.

    python -m model.train_relevance .cache/footage model/embedded --minutes 10

It takes simulated sites and their mirror images, whose truth is known: what each frame shows, and what each question is about.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_model
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from model.backbone import Backbone
from model.examples import Library
from model.probe import SUBJECTS
from model.relevance import FILE, Relevance, read
from simulator.questions import FAMILIES, ask
from simulator.visits import CAMERAS
from simulator.watching import Subject, Watch

RATE = 2e-3
FRAMES, ASKED = 512, 128  # of a step
CHECKED = 8192  # frames


def asked(library: Library, site: int, r: Random) -> list[tuple[str, tuple[Subject, ...]]]:
    """Questions that a site gives cause for, with what they are about."""
    shots = [shot for camera in range(len(CAMERAS)) for shot in library.shots(site, camera, sorted(r.sample(range(40), 12)), False)]
    drawn = (ask(Watch(shots), r, family) for family in FAMILIES for _ in range(4))
    alone = (ask(Watch(shots[:12]), r, family) for family in FAMILIES for _ in range(2))
    return [(quiz.text, quiz.about) for quiz in (*drawn, *alone) if quiz]


def meant(about: tuple[Subject, ...]) -> NDArray[np.bool_]:
    """Which of SUBJECTS [len(SUBJECTS)] a question is about."""
    return np.array([any(s.kind == kind and s.colour in ("", colour) for s in about) for kind, colour in SUBJECTS])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Questions:
    """Questions as read [n, 2 * hidden], and which of SUBJECTS each is about [n, SUBJECTS], 1 or 0."""

    states: Tensor
    about: Tensor

    @classmethod
    def over(cls, backbone: Backbone, library: Library, sites: range, r: Random) -> "Questions":
        """What some sites give cause for."""
        drawn = [each for site in track(sites, description="asking") for each in asked(library, site, r)]
        states = {text: read(backbone, text) for text in dict.fromkeys(text for text, _ in drawn)}
        about = torch.tensor(np.array([meant(about) for _, about in drawn])).float()
        return cls(states=torch.stack([states[text] for text, _ in drawn]), about=about)

    def drawn(self, count: int) -> "Questions":
        """Some of them."""
        some = torch.randint(len(self.states), (count,))
        return Questions(states=self.states[some], about=self.about[some])


def _loss(head: Relevance, tokens: Tensor, shown: Tensor, questions: Questions) -> tuple[Tensor, Tensor, Tensor]:
    logits = head.questions(questions.states) @ head.frames(tokens).T
    truth = questions.about @ (shown == 1).float().T > 0
    arguable = (questions.about @ shown.isnan().float().T > 0) & ~truth
    loss = binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    return (loss * ~arguable).sum() / (~arguable).sum(), logits, truth


def main(footage: Path, folder: Path, minutes: float = 10, sites: int | None = None) -> None:
    """Train a model's head on simulated sites, all that there are or so many, and save it beside the weights; the last tenth checks it."""
    backbone = Backbone.load(folder)
    library = Library(footage, backbone, sites)
    r, split = Random("relevance"), len(library) * 9 // 10
    taught, checked = range(split), range(split, len(library))
    questions, checks = (Questions.over(backbone, library, each, r) for each in (taught, checked))
    features, shown = library.drawn(checked, CHECKED)
    unseen = _tokens(backbone, features), shown
    head = Relevance.of(backbone)
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.05)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        features, shown = library.drawn(taught, FRAMES)
        loss, *_ = _loss(head, _tokens(backbone, features), shown, questions.drawn(ASKED))
        optimiser.param_groups[0]["lr"] = RATE * (1 - done)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if step % 250 == 0:
            print(f"{done:.0%} step {step} loss {loss.item():.4f} {_check(head, *unseen, checks)}", flush=True)
    save_model(head, str(folder / FILE))


@torch.no_grad()
def _tokens(backbone: Backbone, features: Tensor) -> Tensor:
    return backbone.project(features)


@torch.inference_mode()
def _check(head: Relevance, tokens: Tensor, shown: Tensor, questions: Questions) -> str:
    loss, logits, truth = _loss(head, tokens, shown, questions)
    found = (logits[truth] > 0).float().mean()
    false = (logits[~truth] > 0).float().mean()
    return f"held-out loss {loss:.4f}, of the relevant found {found:.3f}, of the others {false:.5f}"


if __name__ == "__main__":
    typer.run(main)
