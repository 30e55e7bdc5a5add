"""Where carriers stand in the language model's context: positions, masks and caches, for training and serving alike.

Layout (arXiv 2503.09387, 3.3): `[prefix][E1 C1][E2 C2]...[question][answer]`. A carrier keeps its un-rotated keys and takes
its position from its rank in the memory at the time of use. So positions never run out, and eviction leaves no hole. How far
apart carriers stand is one rule for training and serving, and part of the fingerprint (`Habits.spacing`):

* "frame-length": the carrier of rank r stands where the r-th frame's carrier stood in training, a frame's length after the
  one before. One masked pass over a clip trains it. Memories are limited by the positions that the model knows.
* "unit": the carrier of rank r stands r behind the prefix, as words do. A frame's own tokens see its carrier where the frame's
  length puts it, later ones where its rank does; no one pass can do both, so a clip is trained on by streaming it.

Patches (`model.patches`) stand in their carrier's frame length where they stood in their frame; with unit spacing, patches and carrier
stand one after the other. In the training-free mode (`model.training_free`) nobody sees carriers, and they take no position.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from model.backbone import Backbone, rotate
from model.patches import PatchBatch, most_looked_at, picked, regrouped


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Carriers:
    """A batch of carrier sets on the device, padded to the longest: what may be attended to.

    `keys` (before rotary embedding) and `values` [layers, batch, kv_heads, carriers, head_dim]; `counts` [batch] real ones;
    `patches` beside them, if their model keeps any.
    """

    keys: Tensor
    values: Tensor
    counts: Tensor
    patches: PatchBatch | None = None

    @property
    def present(self) -> Tensor:
        """[batch, carriers], false for padding."""
        return torch.arange(self.keys.shape[3], device=self.counts.device) < self.counts[:, None]

    @property
    def visible(self) -> Tensor:
        """[batch, tokens], in the order of `with_carriers`: all carriers, then all patches."""
        if self.patches is None:
            return self.present
        return torch.cat((self.present, self.patches.kept.repeat_interleave(self.patches.places.shape[-1], dim=1)), dim=1)

    def expand(self, rows: Tensor) -> "Carriers":
        """Repeat or reorder the sets: one for each of `rows`."""
        patches = self.patches and self.patches.expand(rows)
        return Carriers(keys=self.keys[:, rows], values=self.values[:, rows], counts=self.counts[rows], patches=patches)

    def chosen(self, places: Tensor, counts: Tensor) -> "Carriers":
        """For each row of `places` [n, most] a set of the first `counts` [n] carriers there, of all sets one behind the other."""
        keys, values = (regrouped(t, places) for t in (self.keys, self.values))
        made = Carriers(keys=keys, values=values, counts=counts)
        return replace(made, patches=self.patches and self.patches.chosen(places, made.present))

    def faded(self) -> "Carriers":
        """Where patches are kept, those of a random newest part of each set alone: in the memory they go before their carriers."""
        if self.patches is None:
            return self
        first = (torch.rand_like(self.counts, dtype=torch.float32) * (self.counts + 1)).long()
        return replace(self, patches=self.patches.since(first))

    def followed_by(self, later: "Carriers") -> "Carriers":
        """Sets without padding, each with another behind it."""
        return Carriers(
            keys=torch.cat((self.keys, later.keys), dim=3),
            values=torch.cat((self.values, later.values), dim=3),
            counts=self.counts + later.counts,
            patches=self.patches.followed_by(later.patches) if self.patches and later.patches else None,
        )


def step(backbone: Backbone) -> int:
    """Positions from one carrier to the next."""
    length = backbone.frame_length if backbone.habits.spacing == "frame-length" else backbone.patches + 1
    return length if backbone.habits.mode == "carriers" else length - 1


def carrier_positions(backbone: Backbone, ranks: Tensor) -> Tensor:
    """Positions of the carriers with the given ranks: the same on every axis."""
    return next_position(backbone, ranks + 1) - 1


def next_position(backbone: Backbone, counts: Tensor) -> Tensor:
    """The first position behind a memory of so many carriers: of the next frame, or of a question."""
    return len(backbone.prefix) + counts * step(backbone)


def block_positions(backbone: Backbone, starts: Tensor) -> Tensor:
    """Positions of frames' blocks that begin at `starts` [..., 1]: [..., size], or [3, ..., size] with three axes."""
    return starts + backbone.block


def patch_positions(backbone: Backbone, places: Tensor) -> Tensor:
    """Positions of patches at `places` [layers, batch, carriers, patches]: [layers * batch, carriers * patches], or with three axes
    [3, layers * batch, carriers * patches].
    """
    if backbone.habits.spacing == "frame-length":
        offsets = backbone.block.reshape(-1, backbone.block.shape[-1])[:, places]
    else:
        offsets = torch.arange(places.shape[-1], device=places.device).expand(1, *places.shape)
    starts = next_position(backbone, torch.arange(places.shape[2], device=places.device))
    return (starts[:, None] + offsets).flatten(3).flatten(1, 2).squeeze(0)


def prefix_cache(backbone: Backbone, batch: int) -> DynamicCache:
    """A cache holding the prefix for a batch."""
    tokens = torch.tensor([backbone.prefix], device=backbone.device).expand(batch, -1)
    length = tokens.shape[1]
    cache = DynamicCache()
    positions = torch.arange(length, device=backbone.device).expand(batch, -1)
    backbone.run(backbone.embed(tokens), positions, cache, causal(backbone, batch, length))
    return cache


def with_carriers(backbone: Backbone, carriers: Carriers, prefix: DynamicCache | None = None) -> DynamicCache:
    """Prefix, carriers and their patches in one cache, rotated to the positions of their ranks.

    `prefix` is `prefix_cache` of one, kept by who serves; training computes it anew, since its weights change.
    """
    batch = len(carriers.counts)
    cache = DynamicCache()
    ranks = torch.arange(carriers.keys.shape[3], device=backbone.device)
    keys, values = rotate(carriers.keys, *backbone.angles(carrier_positions(backbone, ranks)[None])), carriers.values
    if carriers.patches is not None:
        beside = carriers.patches
        turn = (a.unflatten(0, (-1, batch))[:, :, None] for a in backbone.angles(patch_positions(backbone, beside.places)))
        keys = torch.cat((keys, rotate(beside.keys.flatten(3, 4), *turn)), dim=3)
        values = torch.cat((values, beside.values.flatten(3, 4)), dim=3)
    opening = (prefix or prefix_cache(backbone, 1)).layers
    for layer, (before, *rows) in enumerate(zip(opening, keys, values, strict=True)):
        first = (each.expand(batch, -1, -1, -1) for each in (before.keys, before.values))
        cache.update(*(torch.cat(pair, dim=2) for pair in zip(first, rows, strict=True)), layer)
    return cache


def by_carrier(backbone: Backbone, carriers: Carriers, attention: Tensor) -> Tensor:
    """Attention [..., tokens] to what `with_carriers` gives, and any behind it, as paid to each carrier and its patches [..., carriers]."""
    start, count = len(backbone.prefix), carriers.keys.shape[3]
    paid = attention[..., start : start + count]
    if carriers.patches is None:
        return paid
    patches = carriers.patches.places.shape[-1]
    beside: Tensor = attention[..., start + count : start + count * (1 + patches)].unflatten(-1, (count, patches)).sum(dim=-1)
    return paid + beside


def attend(backbone: Backbone, carriers: Carriers, queries: int) -> Tensor:
    """Mask [batch, queries, prefix + carriers + patches + queries]: all of the past, and causally themselves.

    Carriers mean nothing to a model that was never taught them: in the training-free mode only their patches are seen.
    """
    batch, device = len(carriers.counts), backbone.device
    prefix = torch.ones(batch, len(backbone.prefix), dtype=torch.bool, device=device)
    visible = carriers.visible
    if backbone.habits.mode == "training-free":
        visible[:, : carriers.keys.shape[3]] = False
    past = torch.cat((prefix, visible), dim=1)[:, None].expand(-1, queries, -1)
    return torch.cat((past, causal(backbone, batch, queries)), dim=2)


def causal(backbone: Backbone, batch: int, length: int, before: int = 0) -> Tensor:
    """Mask [batch, length, before + length] of tokens that see all `before` them, themselves and one another's past."""
    return torch.ones(length, before + length, dtype=torch.bool, device=backbone.device).tril(before).expand(batch, -1, -1)


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


def frame_pass(backbone: Backbone, tokens: Tensor, past: Carriers, prefix: DynamicCache | None = None) -> Carriers:
    """The streaming pass (3.2): a frame of each of a batch, seeing its own carriers of the past; its own carrier is returned.

    tokens [batch, tokens_per_frame, width]; `prefix` as in `with_carriers`.
    """
    return block_pass(backbone, frame_block(backbone, tokens), past, prefix)


def block_pass(backbone: Backbone, blocks: Tensor, past: Carriers, prefix: DynamicCache | None = None) -> Carriers:
    """`frame_pass` of blocks [batch, size, width], whose last token is the carrier; a shorter one lacks its first tokens."""
    cache = with_carriers(backbone, past, prefix)
    positions = block_positions(backbone, next_position(backbone, past.counts)[:, None])[..., -blocks.shape[1] :]
    out = backbone.run(blocks, positions, cache, attend(backbone, past, blocks.shape[1]), attentions=backbone.chooses)
    own = torch.arange(-blocks.shape[1] if backbone.patches else -1, 0, device=backbone.device)
    keys, values = unrotated(backbone, cache, cache.get_seq_length() + own, positions[..., own])
    patches = None
    if backbone.patches:
        every = torch.arange(backbone.tokens_per_frame, device=backbone.device).expand(*keys.shape[:2], -1)
        chosen = most_looked_at(out.attentions, backbone.tokens_per_frame, backbone.patches) if backbone.chooses else every
        patches = picked(keys, values, chosen)
    return Carriers(keys=keys[..., -1:, :], values=values[..., -1:, :], counts=torch.ones_like(past.counts), patches=patches)


def clip_pass(backbone: Backbone, tokens: Tensor) -> Carriers:
    """The pass of training: a clip's frames, each seeing itself and all earlier carriers.

    tokens [batch, frames, tokens_per_frame, width]. Its carriers are those that streaming the frames one by one gives.
    """
    masked = backbone.habits.spacing == "frame-length" and not backbone.patches
    return (masked_pass if masked else streamed_pass)(backbone, tokens)


def masked_pass(backbone: Backbone, tokens: Tensor) -> Carriers:
    """All frames at once, under the semantic-aware causal mask (3.4); right for carriers spaced by a frame's length, without patches."""
    batch, frames = tokens.shape[:2]
    blocks = frame_block(backbone, tokens).flatten(1, 2)
    size, start = backbone.tokens_per_frame + 1, len(backbone.prefix)
    starts = next_position(backbone, torch.arange(frames, device=backbone.device))
    positions = block_positions(backbone, starts[:, None]).flatten(-2)[..., None, :].expand(*backbone.block.shape[:-2], batch, -1)
    cache = prefix_cache(backbone, batch)
    mask = semantic_mask(frames, size, start, backbone.device).expand(batch, -1, -1)
    backbone.run(blocks, positions, cache, mask)
    last = torch.arange(frames, device=backbone.device) * size + size - 1
    return _of_clips(backbone, cache, start + last, positions[..., last])


def embedding_pass(backbone: Backbone, tokens: Tensor) -> Carriers:
    """A clip's carriers without its frames, each seeing the earlier ones: takes the place of `clip_pass` in stage 1 (3.4)."""
    batch, frames = tokens.shape[:2]
    ranks = torch.arange(frames, device=tokens.device)
    positions = carrier_positions(backbone, ranks).expand(batch, -1)
    cache = prefix_cache(backbone, batch)
    start = len(backbone.prefix)
    backbone.run(tokens.mean(dim=2), positions, cache, causal(backbone, batch, frames, start))
    return _of_clips(backbone, cache, start + ranks, positions)


def _of_clips(backbone: Backbone, cache: DynamicCache, rows: Tensor, positions: Tensor) -> Carriers:
    """The carriers of a batch of clips, from where they stand in the cache: see `unrotated`."""
    keys, values = unrotated(backbone, cache, rows, positions)
    return Carriers(keys=keys, values=values, counts=torch.full((keys.shape[1],), len(rows), device=backbone.device))


def streamed_pass(backbone: Backbone, tokens: Tensor) -> Carriers:
    """Frame by frame, with gradients; right for any spacing, and with patches."""
    batch, frames = tokens.shape[:2]
    none = tokens.new_zeros(backbone.config.num_hidden_layers, batch, backbone.config.num_key_value_heads, 0, backbone.head_dim)
    past = Carriers(keys=none, values=none, counts=torch.zeros(batch, dtype=torch.long, device=backbone.device))
    for i in range(frames):
        made = frame_pass(backbone, tokens[:, i], past)
        past = past.followed_by(made) if i else made
    return past


def semantic_mask(frames: int, size: int, prefix: int, device: torch.device) -> Tensor:
    """The semantic-aware causal mask [frames * size, prefix + frames * size] (3.4).

    A frame's tokens see the prefix, all earlier carriers, and causally their own block.
    """
    at = torch.arange(frames * size, device=device)
    block, is_carrier = at // size, at % size == size - 1
    earlier_carrier = is_carrier[None, :] & (block[None, :] < block[:, None])
    own_block = (block[None, :] == block[:, None]) & (at[None, :] <= at[:, None])
    return torch.cat((torch.ones(len(at), prefix, dtype=torch.bool, device=device), earlier_carrier | own_block), dim=1)
