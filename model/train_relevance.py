"""Trains the head that says which carriers a question is about, after the model and without changing it.

    python -m model.train_relevance .cache/footage model/embedded --minutes 8

It takes simulated sites and their mirror images, whose truth is known: what each carrier shows, and what each question is about.
"""

import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_model
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from model.backbone import Backbone
from model.context import clip_pass
from model.examples import Library
from model.probe import SUBJECTS
from model.relevance import FILE, Relevance, read
from simulator.questions import FAMILIES, ask
from simulator.visits import CAMERAS
from simulator.watching import Subject, Watch


@torch.inference_mode()
def carriers_of(backbone: Backbone, library: Library, site: int, mirrored: int = 0) -> Tensor:
    """The carriers of a site's cameras [cameras * seconds, layers, 2, kv_heads, head_dim], each camera one clip."""
    features = library.footage(site, mirrored)
    made = clip_pass(backbone, backbone.project(features.flatten(0, 1)).unflatten(0, features.shape[:2]))
    return torch.stack((made.keys, made.values)).permute(2, 4, 1, 0, 3, 5).flatten(0, 1)


def asked(library: Library, site: int, r: Random) -> list[tuple[str, tuple[Subject, ...]]]:
    """Questions that a site gives cause for, with what they are about."""
    shots = [shot for camera in range(len(CAMERAS)) for shot in library.shots(site, camera, sorted(r.sample(range(40), 12)), False)]
    drawn = (ask(Watch(shots), r, family) for family in FAMILIES for _ in range(4))
    alone = (ask(Watch(shots[:12]), r, family) for family in FAMILIES for _ in range(2))
    return [(quiz.text, quiz.about) for quiz in (*drawn, *alone) if quiz]


def meant(about: tuple[Subject, ...]) -> NDArray[np.bool_]:
    """Which of SUBJECTS [len(SUBJECTS)] a question is about."""
    return np.array([any(s.kind == kind and s.colour in ("", colour) for s in about) for kind, colour in SUBJECTS])


def _gather(backbone: Backbone, library: Library, sites: range, r: Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Carriers, what they show (NaN: barely), questions as read, and what they are about."""
    views = [(site, mirrored) for site in sites for mirrored in (0, 1)]
    kv = torch.cat([carriers_of(backbone, library, *view) for view in track(views, description="watching")])
    shown = torch.cat([library.subjects(*view).flatten(0, 1) for view in views])
    drawn = [each for site in sites for each in asked(library, site, r)]
    states = {text: read(backbone, text) for text in dict.fromkeys(text for text, _ in drawn)}
    asking = torch.stack([states[text] for text, _ in drawn])
    return kv, shown, asking, torch.tensor(np.array([meant(about) for _, about in drawn])).float()


def _loss(head: Relevance, kv: Tensor, shown: Tensor, states: Tensor, about: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = head.questions(states) @ head.carriers(kv).T
    truth = about @ (shown == 1).float().T > 0
    arguable = (about @ shown.isnan().float().T > 0) & ~truth
    loss = binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    return (loss * ~arguable).sum() / (~arguable).sum(), logits, truth


def main(footage: Path, folder: Path, minutes: float = 8, sites: int | None = None) -> None:
    """Train a model's head on simulated sites, all that there are or so many, and save it beside the weights; the last tenth checks it."""
    backbone = Backbone.load(folder)
    library = Library(footage, backbone, sites)
    r = Random("relevance")
    split = len(library) * 9 // 10
    taught = _gather(backbone, library, range(split), r)
    checked = _gather(backbone, library, range(split, len(library)), r)
    head = Relevance.of(backbone)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.01)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        some, few = torch.randint(len(taught[0]), (1024,)), torch.randint(len(taught[2]), (256,))
        loss, *_ = _loss(head, taught[0][some], taught[1][some], taught[2][few], taught[3][few])
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - done)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if step % 500 == 0:
            print(f"{done:.0%} step {step} loss {loss.item():.4f} {_check(head, *checked)}", flush=True)
    save_model(head, str(folder / FILE))


@torch.inference_mode()
def _check(head: Relevance, *checked: Any) -> str:
    loss, logits, truth = _loss(head, *checked)
    found = (logits[truth] > 0).float().mean()
    false = (logits[~truth] > 0).float().mean()
    return f"held-out loss {loss:.4f}, of the relevant found {found:.3f}, of the others {false:.5f}"


if __name__ == "__main__":
    typer.run(main)
