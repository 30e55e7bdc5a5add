"""Where carriers stand in the language model's context: positions, masks and caches, for training and serving alike.

Layout (arXiv 2503.09387, 3.3): `[prefix][E1 C1][E2 C2]...[question][answer]`. A carrier keeps its un-rotated keys and takes
its position from its rank in the memory at the time of use. So positions never run out, and eviction leaves no hole. How far
apart carriers stand is one rule for training and serving, and part of the fingerprint (`Habits.spacing`):

* "frame-length": the carrier of rank r stands where the r-th frame's carrier stood in training, a frame's length after the
  one before. One masked pass over a clip trains it. Memories are limited by the positions that the model knows.
* "unit": the carrier of rank r stands r behind the prefix, as words do. A frame's own tokens see its carrier where the frame's
  length puts it, later ones where its rank does; no one pass can do both, so a clip is trained on by streaming it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from model.backbone import Backbone, rotate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Carriers:
    """A batch of carrier sets on the device, padded to the longest: what may be attended to.

    `keys` (before rotary embedding) and `values` [layers, batch, kv_heads, carriers, head_dim]; `counts` [batch] real ones.
    """

    keys: Tensor
    values: Tensor
    counts: Tensor

    @property
    def present(self) -> Tensor:
        """[batch, carriers], false for padding."""
        return torch.arange(self.keys.shape[3], device=self.counts.device) < self.counts[:, None]

    def expand(self, rows: Tensor) -> "Carriers":
        """Repeat or reorder the sets: one for each of `rows`."""
        return Carriers(keys=self.keys[:, rows], values=self.values[:, rows], counts=self.counts[rows])


def step(backbone: Backbone) -> int:
    """Positions from one carrier to the next."""
    return backbone.frame_length if backbone.habits.spacing == "frame-length" else 1


def carrier_positions(backbone: Backbone, ranks: Tensor) -> Tensor:
    """Positions of the carriers with the given ranks: the same on every axis."""
    return next_position(backbone, ranks + 1) - 1


def next_position(backbone: Backbone, counts: Tensor) -> Tensor:
    """The first position behind a memory of so many carriers: of the next frame, or of a question."""
    return len(backbone.prefix) + counts * step(backbone)


def block_positions(backbone: Backbone, starts: Tensor) -> Tensor:
    """Positions of frames' blocks that begin at `starts` [..., 1]: [..., size], or [3, ..., size] with three axes."""
    return starts + backbone.block


def prefix_cache(backbone: Backbone, batch: int) -> DynamicCache:
    """A cache holding the prefix for a batch."""
    tokens = torch.tensor([backbone.prefix], device=backbone.device).expand(batch, -1)
    length = tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=backbone.device).tril().expand(batch, -1, -1)
    cache = DynamicCache()
    backbone.run(backbone.embed(tokens), torch.arange(length, device=backbone.device).expand(batch, -1), cache, causal)
    return cache


def with_carriers(backbone: Backbone, carriers: Carriers, prefix: DynamicCache | None = None) -> DynamicCache:
    """Prefix and carriers in one cache, the carriers rotated to the positions of their ranks.

    `prefix` is `prefix_cache` of one, kept by who serves; training computes it anew, since its weights change.
    """
    batch = len(carriers.counts)
    cache = DynamicCache()
    ranks = torch.arange(carriers.keys.shape[3], device=backbone.device)
    cos, sin = backbone.angles(carrier_positions(backbone, ranks)[None])
    opening = (prefix or prefix_cache(backbone, 1)).layers
    for layer, (before, keys, values) in enumerate(zip(opening, carriers.keys, carriers.values, strict=True)):
        first = (each.expand(batch, -1, -1, -1) for each in (before.keys, before.values))
        pairs = zip(first, (rotate(keys, cos, sin), values), strict=True)
        cache.update(*(torch.cat(pair, dim=2) for pair in pairs), layer)
    return cache


def attend(backbone: Backbone, carriers: Carriers, queries: int) -> Tensor:
    """Mask [batch, queries, prefix + carriers + queries]: all of the past, and causally themselves."""
    batch, device = len(carriers.counts), backbone.device
    prefix = torch.ones(batch, len(backbone.prefix), dtype=torch.bool, device=device)
    past = torch.cat((prefix, carriers.present), dim=1)[:, None].expand(-1, queries, -1)
    causal = torch.ones(queries, queries, dtype=torch.bool, device=device).tril().expand(batch, -1, -1)
    return torch.cat((past, causal), dim=2)


def unrotated(backbone: Backbone, cache: DynamicCache, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Keys before rotary embedding, and values, of some cached rows.

    `rows` [n] index the cache, `positions` [batch, n] or [3, batch, n] are theirs. Returns two [layers, batch, kv_heads, n,
    head_dim]. A rotation undone once is exact to rounding; undone and redone again and again it would drift, so it never is.
    """
    cos, sin = (a[:, None] for a in backbone.angles(positions))
    length = cos.square() + sin.square()  # 1 but for rounding, or where a model scales its rotation
    keys = torch.stack([rotate(layer.keys[:, :, rows], cos / length, -sin / length) for layer in cache.layers])
    return keys, torch.stack([layer.values[:, :, rows] for layer in cache.layers])


def frame_block(backbone: Backbone, tokens: Tensor) -> Tensor:
    """A frame's visual tokens [..., n, width] with the carrier, their mean in all its width, appended as the last."""
    return torch.cat((tokens, tokens.mean(dim=-2, keepdim=True)), dim=-2)


def frame_pass(backbone: Backbone, tokens: Tensor, past: Carriers, prefix: DynamicCache | None = None) -> tuple[Tensor, Tensor]:
    """The streaming pass (3.2): a frame of each of a batch, seeing its own carriers of the past.

    tokens [batch, tokens_per_frame, width]; `prefix` as in `with_carriers`. Returns the new carriers' un-rotated keys and
    values, each [layers, batch, kv_heads, 1, head_dim].
    """
    blocks = frame_block(backbone, tokens)
    cache = with_carriers(backbone, past, prefix)
    positions = block_positions(backbone, next_position(backbone, past.counts)[:, None])
    backbone.run(blocks, positions, cache, attend(backbone, past, blocks.shape[1]))
    last = torch.tensor([cache.get_seq_length() - 1], device=backbone.device)
    return unrotated(backbone, cache, last, positions[..., -1:])


def clip_pass(backbone: Backbone, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The pass of training: a clip's frames, each seeing itself and all earlier carriers.

    tokens [batch, frames, tokens_per_frame, width]. Returns the carriers' un-rotated keys and values, each
    [layers, batch, kv_heads, frames, head_dim]: what streaming the frames one by one gives.
    """
    return masked_pass(backbone, tokens) if backbone.habits.spacing == "frame-length" else streamed_pass(backbone, tokens)


def masked_pass(backbone: Backbone, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """All frames at once, under the semantic-aware causal mask (3.4); right for carriers spaced by a frame's length."""
    batch, frames = tokens.shape[:2]
    blocks = frame_block(backbone, tokens).flatten(1, 2)
    size, start = backbone.tokens_per_frame + 1, len(backbone.prefix)
    starts = next_position(backbone, torch.arange(frames, device=backbone.device))
    positions = block_positions(backbone, starts[:, None]).flatten(-2)[..., None, :].expand(*backbone.block.shape[:-2], batch, -1)
    cache = prefix_cache(backbone, batch)
    mask = semantic_mask(frames, size, start, backbone.device).expand(batch, -1, -1)
    backbone.run(blocks, positions, cache, mask)
    last = torch.arange(frames, device=backbone.device) * size + size - 1
    return unrotated(backbone, cache, start + last, positions[..., last])


def streamed_pass(backbone: Backbone, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Frame by frame, with gradients; right for any spacing."""
    batch, frames = tokens.shape[:2]
    heads, layers = backbone.config.num_key_value_heads, backbone.config.num_hidden_layers
    keys = values = tokens.new_zeros(layers, batch, heads, 0, backbone.head_dim)
    for i in range(frames):
        counts = torch.full((batch,), i, device=backbone.device)
        key, value = frame_pass(backbone, tokens[:, i], Carriers(keys=keys, values=values, counts=counts))
        keys, values = torch.cat((keys, key), dim=3), torch.cat((values, value), dim=3)
    return keys, values


def semantic_mask(frames: int, size: int, prefix: int, device: torch.device) -> Tensor:
    """The semantic-aware causal mask [frames * size, prefix + frames * size] (3.4).

    A frame's tokens see the prefix, all earlier carriers, and causally their own block.
    """
    at = torch.arange(frames * size, device=device)
    block, is_carrier = at // size, at % size == size - 1
    earlier_carrier = is_carrier[None, :] & (block[None, :] < block[:, None])
    own_block = (block[None, :] == block[:, None]) & (at[None, :] <= at[:, None])
    return torch.cat((torch.ones(len(at), prefix, dtype=torch.bool, device=device), earlier_carrier | own_block), dim=1)
