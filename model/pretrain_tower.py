"""Phase 0 of the embedded model: the vision tower learns what stands in each patch.

    python -m model.pretrain_tower .cache/footage .cache/train/tower.safetensors --minutes 12

A from-scratch tower learns little from captions alone in minutes; the simulator knows what covers every patch, so the
tower is first taught that, through a linear head that is thrown away.
"""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.embedded import PATCH, SIDE, fresh, tower_of
from model.images import normalise
from model.probe import SUBJECTS
from simulator.visits import CAMERAS, COLOURS, HEIGHT, MOVERS, THINGS, WIDTH
from simulator.world import Sighting, Site

GRID = SIDE // PATCH
KINDS = ("", *MOVERS, *THINGS)
PAINTS = ("", *COLOURS)
HEADS = (len(KINDS), len(PAINTS), 2, GRID, GRID, GRID)  # kind, colour, heading, the object's place, the patch's own column and row
WARM = 300  # steps
WEIGHTS = (1.0, 1.0, 1.0, 1.0, 0.1, 0.1)
OWN = 4  # heads from here on are of the patch itself, covered or not
_SUBJECT = np.array([[SUBJECTS.index((k, p)) if (k, p) in SUBJECTS else -1 for p in PAINTS] for k in KINDS], np.int8)
HALF = torch.full((3,), 0.5)


def patch_labels(sightings: tuple[Sighting, ...]) -> NDArray[np.int64]:
    """What covers each patch, nearest first: [len(HEADS), GRID, GRID], each an index of its head; 0 is nothing.

    -100 is not to be learnt: place and heading of nothing, and which way a person goes, which one small picture does not show.
    The patch's own place is learnt so that the features say where; carriers, which are means, would not know it otherwise.
    """
    labels = np.zeros((len(HEADS), GRID, GRID), np.int64)
    labels[2:OWN] = -100
    labels[4], labels[5] = np.meshgrid(np.arange(GRID), np.arange(GRID))
    w, h = WIDTH / GRID, HEIGHT / GRID
    for s in sightings:  # far to near, so that the near overwrite
        left, top, right, bottom = s.box
        for row in range(max(0, int(top // h)), min(GRID, int(bottom // h) + 1)):
            for col in range(max(0, int(left // w)), min(GRID, int(right // w) + 1)):
                across = min(right, (col + 1) * w) - max(left, col * w)
                down = min(bottom, (row + 1) * h) - max(top, row * h)
                if across * down > 0.3 * min(w * h, (right - left) * (bottom - top)):
                    heading = -100 if s.kind == "person" or s.heading == 0 else (1 + s.heading) // 2
                    place = min(GRID - 1, max(0, int(s.x // w)))
                    labels[:OWN, row, col] = KINDS.index(s.kind), PAINTS.index(s.colour), heading, place
    return labels


def covered(sightings: tuple[Sighting, ...]) -> NDArray[np.int8]:
    """Which of SUBJECTS each patch shows [GRID, GRID], -1 for none."""
    kind, paint, *_ = patch_labels(sightings)
    subjects: NDArray[np.int8] = _SUBJECT[kind, paint]
    return subjects


def load(folder: Path, sites: int | None) -> tuple[Tensor, Tensor]:
    """Footage of so many sites or all: pictures [n, 3, SIDE, SIDE] uint8 and labels [n, len(HEADS), GRID, GRID]."""
    labels: list[NDArray[np.int64]] = []
    paths = sorted(folder.glob("*.npz"))[:sites]
    for i, path in enumerate(track(paths, description="loading")):
        site, film = Site(int(path.stem)), np.load(path, allow_pickle=False)
        seen = torch.from_numpy(film["pictures"]).flatten(0, 1).permute(0, 3, 1, 2)
        if i == 0:
            pictures = seen.new_empty(len(paths), *seen.shape)  # once: it is most of the memory
        pictures[i] = seen
        labels.extend(patch_labels(site.sightings(c, t)) for c, times in zip(CAMERAS, film["times"], strict=True) for t in times)
    return pictures.flatten(0, 1), torch.from_numpy(np.stack(labels))


def augment(pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Every picture and its mirror image, in varied light and contrast. Takes uint8, gives the tower's range.

    Side by side in one batch the two differ in nothing but which way things face, which is else hard to learn.
    """
    pictures = torch.cat((pictures, pictures.flip(3)))
    mirrored = labels.flip(3)
    mirrored[:, 2] = torch.where(mirrored[:, 2] >= 0, 1 - mirrored[:, 2], mirrored[:, 2])
    mirrored[:, 3] = torch.where(mirrored[:, 3] >= 0, GRID - 1 - mirrored[:, 3], mirrored[:, 3])
    mirrored[:, 4] = labels[:, 4]
    labels = torch.cat((labels, mirrored))
    x = normalise(pictures, HALF, HALF, torch.float32)
    gain = 1 + 0.15 * torch.randn(len(x), 1, 1, 1)
    return (x * gain + 0.08 * torch.randn(len(x), 1, 1, 1)).clamp(-1, 1), labels


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross-entropy of the heads over patches [n, patches, sum(HEADS)]; empty patches weigh less."""
    total = logits.new_zeros(())
    for part, head in enumerate(logits.split(HEADS, dim=2)):
        weight = torch.ones(HEADS[part])
        if part < 2:
            weight[0] = 0.25
        total = total + cross_entropy(head.flatten(0, 1), labels[:, part].flatten(), weight) * WEIGHTS[part]
    return total


def accuracy(logits: Tensor, labels: Tensor) -> list[float]:
    """Per head, the share right among covered patches, of those that have a label."""
    covered = labels[:, 0].flatten() > 0
    shares = []
    for i, head in enumerate(logits.split(HEADS, dim=2)):
        label = labels[:, i].flatten()
        right = head.flatten(0, 1).argmax(1) == label
        shares.append(round(right[covered & (label >= 0)].float().mean().item(), 3))
    return shares


def main(
    footage: Path,
    out: Path,
    minutes: float = 12,
    batch: int = 48,
    rate: float = 1.5e-3,
    resume: Annotated[Path | None, typer.Option(help="Go on from the tower of this file, or of this saved model.")] = None,
    sites: int | None = None,
) -> None:
    """Train for a given time with a one-cycle rate; the last 5 % of the pictures are for checking."""
    pictures, labels = load(footage, sites)
    split = int(len(pictures) * 0.95)
    tower = fresh(8, 0, 1, 2).model.vision_tower
    head = nn.Linear(tower.config.hidden_size, sum(HEADS))
    teach = partial(_teach, tower, head, pictures[:split], labels[:split], batch)
    if resume:
        tower.load_state_dict(tower_of(resume))
        tower.requires_grad_(False)  # until the head reads what is there already
        optimiser = torch.optim.AdamW(head.parameters(), lr=2 * rate)
        for _ in range(WARM):
            teach(optimiser)
        tower.requires_grad_(True)
    optimiser = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=rate, weight_decay=0.05)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = rate * min(1.0, step / WARM) * max(0.02, 1 - done)
        loss = teach(optimiser)
        step += 1
        if step % 100 == 0:
            right = _check(tower, head, pictures[split:], labels[split:])
            print(f"{done:.0%} step {step} loss {loss:.3f} held-out kind/colour/heading/place/column/row {right}", flush=True)
            _save(tower, out)
    _save(tower, out)


def _teach(tower: nn.Module, head: nn.Module, pictures: Tensor, labels: Tensor, batch: int, optimiser: torch.optim.Optimizer) -> float:
    some = torch.randint(len(pictures), (batch,))
    x, y = augment(pictures[some], labels[some])
    loss = loss_of(head(tower(x).last_hidden_state), y)
    optimiser.zero_grad()
    loss.backward()
    for group in optimiser.param_groups:
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()
    return loss.item()


@torch.no_grad()
def _check(tower: nn.Module, head: nn.Module, pictures: Tensor, labels: Tensor) -> list[float]:
    some = torch.randint(len(pictures), (256,))
    return accuracy(head(tower(normalise(pictures[some], HALF, HALF, torch.float32)).last_hidden_state), labels[some])


def _save(tower: nn.Module, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, out)


if __name__ == "__main__":
    typer.run(main)
