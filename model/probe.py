"""What a carrier must tell of its frame, taught directly: a linear probe from its keys and values to the simulator's truth.

A question's answer is one or two words, a poor teacher of forty carriers at once; the truth of every frame is known and
teaches each of them. The probe is thrown away after training.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from simulator.visits import COLOURS, MOVERS, THINGS, WIDTH
from simulator.watching import CLEAR, HINT
from simulator.world import Sighting

SUBJECTS = tuple([(kind, colour) for kind in MOVERS for colour in COLOURS] + [(kind, "") for kind in THINGS])
PARTS = (len(SUBJECTS), len(SUBJECTS), len(SUBJECTS), len(MOVERS))  # is it there, where, which way it goes; how many of a kind
WEIGHTS = (8.0, 6.0, 1.5, 1.0)
RARE = -3.0  # the logit of any one subject's being there
WALKING = [2 * len(SUBJECTS) + i for i, (kind, _) in enumerate(SUBJECTS) if kind == "person"]  # cannot be told from one picture


def told(sightings: Sequence[Sighting]) -> NDArray[np.float32]:
    """The truth of a frame [sum(PARTS)]; NaN is not to be learnt: what is barely visible, the place of what is not there."""
    there, place, heading, count = np.split(np.full(sum(PARTS), np.nan, np.float32), np.cumsum(PARTS)[:-1])
    for i, (kind, colour) in enumerate(SUBJECTS):
        alike = [s for s in sightings if (s.kind, s.colour) == (kind, colour)]
        clear = [s for s in alike if s.visible >= CLEAR]
        if clear or not any(s.visible >= HINT for s in alike):
            there[i] = bool(clear)
        if len(clear) == 1:
            place[i] = clear[0].x / WIDTH
        headings = {s.heading for s in clear} - {0}
        if len(headings) == 1:
            heading[i] = headings == {1}
    for i, kind in enumerate(MOVERS):
        visible = [s.visible for s in sightings if s.kind == kind]
        if not any(HINT <= v < CLEAR for v in visible):
            count[i] = sum(v >= CLEAR for v in visible)
    return np.concatenate((there, place, heading, count))


class Probe(nn.Module):
    """Reads a carrier's keys and values of all layers."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        width = layers * kv_heads * head_dim * 2
        self.even = nn.BatchNorm1d(width, affine=False)  # keys have large constant parts, which would drown what varies
        self.read = nn.Linear(width, sum(PARTS))
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)
        nn.init.constant_(self.read.bias[: len(SUBJECTS)], RARE)

    def forward(self, keys: Tensor, values: Tensor) -> Tensor:
        """Keys and values [layers, clips, kv_heads, frames, dim] to scores [clips, frames, sum(PARTS)]."""
        flat = torch.cat((keys, values), dim=-1).permute(1, 3, 0, 2, 4).flatten(2)
        scores: Tensor = self.read(self.even(flat.flatten(0, 1)).unflatten(0, flat.shape[:2]))
        return scores

    @staticmethod
    def loss(scores: Tensor, truth: Tensor) -> Tensor:
        """How far the scores are from the truth, both [..., sum(PARTS)]."""
        yes_no, place = binary_cross_entropy_with_logits, partial(smooth_l1_loss, beta=0.05)  # a twentieth of a picture is near enough
        kinds: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (yes_no, place, yes_no, smooth_l1_loss)
        total = scores.new_zeros(())
        for score, label, loss, weight in zip(scores.split(PARTS, -1), truth.split(PARTS, -1), kinds, WEIGHTS, strict=True):
            known = ~label.isnan()
            total = total + weight * loss(score[known], label[known])
        return total

    @staticmethod
    def right(scores: Tensor, truth: Tensor) -> list[float]:
        """Of what is there: found, mean distance of its place in picture widths, heading right; and counts right."""
        there, place, heading, count = zip(scores.detach().split(PARTS, -1), truth.split(PARTS, -1), strict=True)
        seen = there[1] == 1
        known = ~heading[1].isnan()
        placed, counted = ~place[1].isnan(), count[1] > 0
        return [
            round(float(share.float().mean()), 3)
            for share in (
                there[0][seen] > 0,
                (place[0] - place[1])[placed].abs(),
                (heading[0] > 0)[known] == (heading[1][known] > 0),
                count[0][counted].round() == count[1][counted],
            )
        ]
