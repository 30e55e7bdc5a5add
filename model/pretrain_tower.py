"""Phase 0 of the embedded model: the vision tower learns what stands in each patch.

    python -m model.pretrain_tower .cache/footage .cache/train/tower.safetensors --minutes 12

A from-scratch tower learns little from captions alone in minutes; the simulator knows what covers every patch, so the
tower is first taught that, through a linear head that is thrown away.
"""

import time
from pathlib import Path

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.embedded import PATCH, SIDE, fresh
from model.images import normalise
from simulator.visits import CAMERAS, COLOURS, HEIGHT, MOVERS, THINGS, WIDTH
from simulator.world import Sighting, Site

GRID = SIDE // PATCH
KINDS = ("", *MOVERS, *THINGS)
PAINTS = ("", *COLOURS)
HEADS = (len(KINDS), len(PAINTS), 3)  # kind, colour, heading (none, left, right)
HALF = torch.full((3,), 0.5)


def patch_labels(sightings: tuple[Sighting, ...]) -> NDArray[np.int64]:
    """What covers each patch, nearest first: [3, GRID, GRID] indices into KINDS, PAINTS and headings; 0 is nothing."""
    labels = np.zeros((3, GRID, GRID), np.int64)
    w, h = WIDTH / GRID, HEIGHT / GRID
    for s in sightings:  # far to near, so that the near overwrite
        left, top, right, bottom = s.box
        for row in range(max(0, int(top // h)), min(GRID, int(bottom // h) + 1)):
            for col in range(max(0, int(left // w)), min(GRID, int(right // w) + 1)):
                across = min(right, (col + 1) * w) - max(left, col * w)
                down = min(bottom, (row + 1) * h) - max(top, row * h)
                if across * down > 0.3 * min(w * h, (right - left) * (bottom - top)):
                    labels[:, row, col] = KINDS.index(s.kind), PAINTS.index(s.colour), 0 if s.heading == 0 else (3 + s.heading) // 2
    return labels


def load(folder: Path) -> tuple[Tensor, Tensor]:
    """All footage: pictures [n, 3, SIDE, SIDE] uint8 and labels [n, 3, GRID, GRID]."""
    pictures: list[Tensor] = []
    labels: list[NDArray[np.int64]] = []
    for path in sorted(folder.glob("*.npz")):
        site, film = Site(int(path.stem)), np.load(path, allow_pickle=False)
        pictures.append(torch.from_numpy(film["pictures"]).flatten(0, 1).permute(0, 3, 1, 2).contiguous())
        labels.extend(patch_labels(site.sightings(c, t)) for c, times in zip(CAMERAS, film["times"], strict=True) for t in times)
    return torch.cat(pictures), torch.from_numpy(np.stack(labels))


def augment(pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror half of the pictures (and their headings), and vary light and contrast. Takes uint8, gives the tower's range."""
    flip = torch.rand(len(pictures)) < 0.5
    pictures = torch.where(flip[:, None, None, None], pictures.flip(3), pictures)
    mirrored = labels.flip(3).clone()
    mirrored[:, 2] = torch.tensor([0, 2, 1])[mirrored[:, 2]]
    labels = torch.where(flip[:, None, None, None], mirrored, labels)
    x = normalise(pictures, HALF, HALF, torch.float32)
    gain = 1 + 0.15 * torch.randn(len(x), 1, 1, 1)
    return (x * gain + 0.08 * torch.randn(len(x), 1, 1, 1)).clamp(-1, 1), labels


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the three heads over patches [n, patches, sum(HEADS)]; empty patches weigh less."""
    total = logits.new_zeros(())
    for part, head in enumerate(logits.split(HEADS, dim=2)):
        weight = torch.ones(HEADS[part])
        weight[0] = 0.25
        total = total + cross_entropy(head.flatten(0, 1), labels[:, part].flatten(), weight)
    return total


def accuracy(logits: Tensor, labels: Tensor) -> list[float]:
    """Per head, the share right among covered patches (kind, colour and heading)."""
    covered = labels[:, 0].flatten() > 0
    heads = enumerate(logits.split(HEADS, dim=2))
    return [round((head.flatten(0, 1).argmax(1) == labels[:, i].flatten())[covered].float().mean().item(), 3) for i, head in heads]


def main(footage: Path, out: Path, minutes: float = 12, batch: int = 96, rate: float = 1.5e-3) -> None:
    """Train for a given time with a one-cycle rate; the last 5 % of the pictures are for checking."""
    pictures, labels = load(footage)
    split = int(len(pictures) * 0.95)
    tower = fresh(8, 0, 1, 2).model.vision_tower
    head = nn.Linear(tower.config.hidden_size, sum(HEADS))
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = rate * min(1.0, step / 100) * max(0.02, 1 - done)
        some = torch.randint(split, (batch,))
        x, y = augment(pictures[some], labels[some])
        loss = loss_of(head(tower(x).last_hidden_state), y)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 200 == 0:
            with torch.no_grad():
                some = torch.randint(split, len(pictures), (256,))
                check = head(tower(normalise(pictures[some], HALF, HALF, torch.float32)).last_hidden_state)
            right = accuracy(check, labels[some])
            print(f"{done:.0%} step {step} loss {loss.item():.3f} held-out kind/colour/heading {right}", flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, out)
    save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, out)


if __name__ == "__main__":
    typer.run(main)
