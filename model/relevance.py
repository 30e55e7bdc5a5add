"""Which of very many carriers may show what a question is about: the dot product of two short vectors, one each.

    python -m model.relevance .cache/footage model/embedded --minutes 3

The carrier's vector is made once, at prefill, from its keys and values before rotary embedding, so it knows no position; the
question's from the language model's reading of the question alone. Their product is the logit of "it is to be seen there".
The embedded model's head is trained here, after the model and without changing it.
"""

import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import DynamicCache

from model.backbone import Backbone
from model.context import clip_pass
from model.examples import Library
from model.probe import SUBJECTS
from simulator.questions import FAMILIES, ask
from simulator.visits import CAMERAS
from simulator.watching import Subject, Watch

FILE = "relevance.safetensors"
SIZE = 32


class Relevance(nn.Module):
    """Two linear maps into one small space."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        width = layers * 2 * kv_heads * head_dim
        self.carrier = nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, SIZE - 1))
        self.question = nn.Sequential(nn.LayerNorm(2 * hidden, elementwise_affine=False), nn.Linear(2 * hidden, SIZE))

    @classmethod
    def of(cls, backbone: Backbone) -> "Relevance":
        """An untrained head of the right size."""
        spec = backbone.spec
        return cls(spec.layers, spec.kv_heads, spec.head_dim, spec.hidden)

    def carriers(self, kv: Tensor) -> Tensor:
        """kv [n, layers, 2, kv_heads, head_dim] to vectors [n, SIZE]; the last entry is 1 and takes the question's bias."""
        return nn.functional.pad(self.carrier(kv.flatten(1).float()), (0, 1), value=1.0)

    def questions(self, states: Tensor) -> Tensor:
        """What `read` gave [n, 2 * hidden] to vectors [n, SIZE]."""
        vectors: Tensor = self.question(states)
        return vectors


@torch.inference_mode()
def read(backbone: Backbone, question: str) -> Tensor:
    """A question as the language model reads it with nothing to look at [2 * hidden]: its last token's state, and the mean of all."""
    tokens = torch.tensor([[*backbone.prefix, *backbone.suffix(question)]], device=backbone.device)
    length = tokens.shape[1]
    mask = torch.ones(1, length, length, dtype=torch.bool, device=backbone.device).tril()
    positions = torch.arange(length, device=backbone.device)[None]
    states: Tensor = backbone.run(backbone.embed(tokens), positions, DynamicCache(), mask).last_hidden_state[0]
    return torch.cat((states[-1], states[len(backbone.prefix) :].mean(0))).float()


@torch.inference_mode()
def carriers_of(backbone: Backbone, library: Library, site: int) -> Tensor:
    """The carriers of a site's cameras [cameras * seconds, layers, 2, kv_heads, head_dim], each camera one clip."""
    features = library.footage(site)
    keys, values = clip_pass(backbone, backbone.project(features.flatten(0, 1)).unflatten(0, features.shape[:2]))
    return torch.stack((keys, values)).permute(2, 4, 1, 0, 3, 5).flatten(0, 1)


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
    kv = torch.cat([carriers_of(backbone, library, site) for site in sites])
    shown = torch.cat([library.subjects(site).flatten(0, 1) for site in sites])
    drawn = [each for site in sites for each in asked(library, site, r)]
    states = torch.stack([read(backbone, text) for text, _ in drawn])
    return kv, shown, states, torch.tensor(np.array([meant(about) for _, about in drawn])).float()


def _loss(head: Relevance, kv: Tensor, shown: Tensor, states: Tensor, about: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = head.questions(states) @ head.carriers(kv).T
    truth = about @ (shown == 1).float().T > 0
    arguable = (about @ shown.isnan().float().T > 0) & ~truth
    loss = binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    return (loss * ~arguable).sum() / (~arguable).sum(), logits, truth


def main(footage: Path, folder: Path, minutes: float = 3, sites: int = 200) -> None:
    """Train a model's head on simulated sites and save it beside the weights; the last tenth of the sites is for checking."""
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
        some, few = torch.randint(len(taught[0]), (2048,)), torch.randint(len(taught[2]), (256,))
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


def load(backbone: Backbone, folder: Path) -> Relevance | None:
    """A model's head, if it has one."""
    if not (folder / FILE).is_file():
        return None
    head = Relevance.of(backbone)
    load_model(head, str(folder / FILE))
    return head.eval().requires_grad_(False).to(backbone.device)


if __name__ == "__main__":
    typer.run(main)
