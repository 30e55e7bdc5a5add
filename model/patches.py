"""Patches kept beside carriers (VideoScan+): of each frame, in each layer, the visual tokens that its carrier attends to most.

They see and are seen as their carrier is: by all later frames, and by questions. Without them the method is the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.core import MAX_BYTES, LongwatchError

BESIDE = 4096  # bytes that are left for names, times and whatever else goes with the numbers


class TooManyPatches(LongwatchError):
    """More visual tokens of a frame than it has, or than can be kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchBatch:
    """The patches of a batch of carrier sets on the device, padded to the longest set.

    `keys` (before rotary embedding) and `values` [layers, batch, kv_heads, carriers, patches, head_dim]; `places` [layers, batch,
    carriers, patches] within their frames; `kept` [batch, carriers], false for padding and for carriers without patches.
    """

    keys: Tensor
    values: Tensor
    places: Tensor
    kept: Tensor

    def expand(self, rows: Tensor) -> "PatchBatch":
        """As `model.context.Carriers.expand`."""
        return PatchBatch(keys=self.keys[:, rows], values=self.values[:, rows], places=self.places[:, rows], kept=self.kept[rows])

    def chosen(self, places: Tensor, meant: Tensor) -> "PatchBatch":
        """As `model.context.Carriers.chosen`; `meant` [n, most] is false for padding."""
        keys, values = (regrouped(t, places) for t in (self.keys, self.values))
        return PatchBatch(keys=keys, values=values, places=self.places.flatten(1, 2)[:, places], kept=self.kept.flatten()[places] & meant)

    def since(self, first: Tensor) -> "PatchBatch":
        """Only of each set's carriers from rank `first` [batch] on, as where older ones have lost theirs."""
        return replace(self, kept=self.kept & (torch.arange(self.kept.shape[1], device=first.device) >= first[:, None]))

    def followed_by(self, later: "PatchBatch") -> "PatchBatch":
        """As `model.context.Carriers.followed_by`."""
        return PatchBatch(
            keys=torch.cat((self.keys, later.keys), dim=3),
            values=torch.cat((self.values, later.values), dim=3),
            places=torch.cat((self.places, later.places), dim=2),
            kept=torch.cat((self.kept, later.kept), dim=1),
        )


def regrouped(rows: Tensor, places: Tensor) -> Tensor:
    """Of `rows` [layers, batch, kv_heads, carriers, ...] those at `places` [n, most], all sets one behind the other, as n sets."""
    return rows.transpose(1, 2).flatten(2, 3)[:, :, places].transpose(1, 2)


def most_kept(layers: int, kv_heads: int, head_dim: int, hidden: int) -> int:
    """How many patches of a frame the long-term memory takes, in any form: it limits what a value is once restored to float32."""
    row = 4 * layers * 2 * kv_heads * head_dim
    return (MAX_BYTES - BESIDE - 4 * hidden - row) // (row + 2 * layers)


def most_looked_at(attentions: Sequence[Tensor], tokens: int, count: int) -> Tensor:
    """The places [layers, batch, count], ascending, of the visual tokens that the carrier attends to most: the mean over heads.

    `attentions` are a frame's own pass's, a layer each [batch, heads, tokens + 1, all + tokens + 1]; the carrier stands last.
    """
    looks = torch.stack([layer[:, :, -1, -tokens - 1 : -1].mean(dim=1) for layer in attentions])
    return looks.topk(count, dim=-1).indices.sort(dim=-1).values


def picked(keys: Tensor, values: Tensor, places: Tensor) -> PatchBatch:
    """One new frame's patches: of all its tokens' `keys` and `values` [layers, batch, kv_heads, tokens, head_dim] those at `places`."""
    at = places[:, :, None, :, None].expand(-1, -1, keys.shape[2], -1, keys.shape[4])
    return PatchBatch(
        keys=keys.gather(3, at)[:, :, :, None],
        values=values.gather(3, at)[:, :, :, None],
        places=places[:, :, None],
        kept=torch.ones(keys.shape[1], 1, dtype=torch.bool, device=keys.device),
    )
