"""The first phase with the live memories of many cameras kept on the device: one slot a camera, static shapes once it is full.

The arithmetic is that of `VideoScan.prefill` over `LiveMemory`; what differs is where things are. Keys and values stay on the
device, un-rotated, in rows that never move: a carrier keeps its row until the newest takes it over, and only its rank, which
gives it its position, changes. Nothing comes back to the host but the new carriers, asynchronously.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from model.backbone import Backbone, rotate
from model.context import Carriers, attend, block_positions, carrier_positions, frame_block, next_position, prefix_cache, unrotated
from model.fast import Graphed, sees_past_unmasked
from model.images import normalise


class Memories:
    """Bounded memories on the device (arXiv 2503.09387, 3.3): of the most alike neighbours the older goes.

    Of each slot: `order` gives the row of each rank, oldest first; `likeness` is that of each rank to the next, -inf where
    there is none. Changes in place; never waits for the device.
    """

    def __init__(self, backbone: Backbone, slots: int, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a live memory holds at least one carrier, not {limit}")
        config, device, dtype = backbone.config, backbone.device, backbone.dtype
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, limit, backbone.head_dim)
        self.limit = limit
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # before rotary embedding
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.embeddings = torch.zeros(slots, limit, config.hidden_size, device=device, dtype=dtype)
        self.counts = torch.zeros(slots, device=device, dtype=torch.long)
        self.order = torch.arange(limit, device=device).repeat(slots, 1)
        self.likeness = torch.full((slots, limit), -torch.inf, device=device, dtype=torch.float64)
        self._ranks = torch.arange(limit, device=device)

    def ranks(self, slots: Tensor) -> Tensor:
        """The rank of each row [n, limit] of `slots` [n]."""
        order: Tensor = self.order[slots]
        return torch.empty_like(order).scatter_(1, order, self._ranks.expand_as(order))

    def add(self, slots: Tensor, embeddings: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Append one carrier to each of `slots` [n], all different. Returns the ranks [n] of those that had to go, -1 for none.

        embeddings [n, hidden]; keys and values [layers, n, kv_heads, head_dim].
        """
        counts, order = self.counts[slots], self.order[slots]
        last = (counts - 1).clamp(min=0)[:, None]
        likeness = self._set(
            self.likeness[slots], last, self._alike(slots, order.gather(1, last), embeddings[:, None]), counts[:, None] > 0
        )
        full = counts == self.limit
        goes = torch.where(full, likeness.argmax(1), self.limit)
        row = torch.where(full, order.gather(1, goes.clamp(max=self.limit - 1)[:, None])[:, 0], counts)
        self.embeddings[slots, row] = embeddings
        self.keys[:, slots, :, row] = keys.transpose(0, 1)
        self.values[:, slots, :, row] = values.transpose(0, 1)
        left = self._ranks + (self._ranks >= goes[:, None])  # the ranks that stay, moved up
        order = torch.where(full[:, None], torch.cat((order, row[:, None]), 1).gather(1, left), order)
        likeness = torch.nn.functional.pad(likeness, (0, 1), value=-torch.inf).gather(1, left)
        self.order[slots] = order
        self.likeness[slots] = self._close(slots, order, likeness, goes, full)
        self.counts[slots] = (counts + 1).clamp(max=self.limit)
        return torch.where(full, goes, -1)

    def recall(self, slots: Tensor, embeddings: Tensor, keys: Tensor, values: Tensor) -> None:
        """Begin `slots` [n] anew with carriers in order of time, at most `limit`: what a camera remembered before a restart.

        embeddings [n, carriers, hidden]; keys and values [layers, n, kv_heads, carriers, head_dim].
        """
        count = embeddings.shape[1]
        self.embeddings[slots, :count] = embeddings
        self.keys[:, slots, :, :count] = keys
        self.values[:, slots, :, :count] = values
        self.counts[slots] = count
        self.order[slots] = self._ranks
        self.likeness[slots] = -torch.inf
        self.likeness[slots, : max(count - 1, 0)] = _cosine(embeddings[:, :-1], embeddings[:, 1:])

    def _close(self, slots: Tensor, order: Tensor, likeness: Tensor, goes: Tensor, full: Tensor) -> Tensor:
        """Neighbours across the gap that an eviction leaves are new to each other."""
        before, after = (goes - 1).clamp(0, self.limit - 1)[:, None], goes.clamp(max=self.limit - 1)[:, None]
        joined = self._alike(slots, order.gather(1, before), self.embeddings[slots[:, None], order.gather(1, after)])
        return self._set(likeness, before, joined, (full & (goes > 0))[:, None])

    def _alike(self, slots: Tensor, rows: Tensor, others: Tensor) -> Tensor:
        return _cosine(self.embeddings[slots[:, None], rows], others)

    @staticmethod
    def _set(values: Tensor, at: Tensor, new: Tensor, where: Tensor) -> Tensor:
        return values.scatter(1, at, torch.where(where, new, values.gather(1, at)))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    x, y = a.double(), b.double()
    lengths: Tensor = x.norm(dim=-1) * y.norm(dim=-1)
    return (x * y).sum(-1) / (lengths + 1e-12)


class _Past(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer's prefix and carriers before a frame's tokens, put together as they are read; only the carrier's row is kept."""

    def __init__(self, prefix: Any, keys: Tensor, values: Tensor, slots: Tensor, angles: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self._prefix, self._keys, self._values, self._slots, self._angles = prefix, keys, values, slots, angles
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values [batch, kv_heads, prefix + carriers + tokens, head_dim] to attend to."""
        self.keys, self.values = key_states[:, :, -1:].clone(), value_states[:, :, -1:].clone()
        batch = len(key_states)
        opening = (each.expand(batch, -1, -1, -1) for each in (self._prefix.keys, self._prefix.values))
        past = rotate(self._keys[self._slots], *self._angles), self._values[self._slots]
        keys, values = (torch.cat(parts, dim=2) for parts in zip(opening, past, (key_states, value_states), strict=True))
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens before the frame's."""
        return int(self._prefix.keys.shape[2] + self._keys.shape[2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fresh:
    """New carriers on their way to the host: `wait` before reading them.

    `embeddings` [frames, hidden]; `kv` [frames, layers, 2, kv_heads, head_dim], keys before rotary embedding and values;
    `evicted` [frames] the ranks that went from the memories, -1 for none.
    """

    embeddings: Tensor
    kv: Tensor
    evicted: Tensor
    copied: torch.cuda.Event | None

    def wait(self) -> "Fresh":
        """Until all of it has arrived."""
        if self.copied:
            self.copied.synchronize()
        return self


class Resident:
    """Prefill for cameras that live in slots on the device. Not thread-safe.

    With `graphs`, a batch of full memories is recorded once for each size of batch and then replayed (CUDA only). Raises
    ValueError for a model whose live memory follows another policy than the paper's, or that keeps patches.
    """

    def __init__(self, backbone: Backbone, *, cameras: int, live: int | None = None, graphs: bool = False) -> None:
        if (policy := backbone.habits.live_policy) != "paper":
            raise ValueError(f"memories on the device follow the paper's policy, not {policy!r}")
        if backbone.patches:
            raise ValueError("memories on the device keep no patches")
        self.backbone = backbone
        self.memories = Memories(backbone, cameras, live or backbone.habits.live)
        self._ages = [0] * cameras  # as `memories.counts`, known without asking the device
        with torch.inference_mode():
            self._prefix = prefix_cache(backbone, 1).layers
        self._newest = torch.zeros(1, device=backbone.device, dtype=torch.long)
        self._full: Any = Graphed(self._step, backbone.device) if graphs else self._step

    @torch.inference_mode()
    def recall(self, slots: Sequence[int], embeddings: Tensor, kv: Tensor) -> None:
        """Begin slots anew with what their cameras remembered, of equal length: [n, carriers, hidden] and
        [n, carriers, layers, 2, kv_heads, head_dim].

        Raises ValueError if there are more carriers than a memory holds.
        """
        count, limit = embeddings.shape[1], self.memories.limit
        if count > limit:
            raise ValueError(f"{count} carriers do not fit into a memory of {limit}")
        keys, values = kv.to(self.backbone.device).permute(3, 2, 0, 4, 1, 5)
        self.memories.recall(self._slots(slots).to(self.backbone.device), embeddings.to(self.backbone.device), keys, values)
        for slot in slots:
            self._ages[slot] = count

    @torch.inference_mode()
    def prefill(self, pictures: Tensor, slots: Sequence[int]) -> Fresh:
        """One new frame for each of several cameras, by slot, into the memories.

        `pictures` [frames, 3, side, side] uint8, as `model.images.resize` makes them, best in pinned memory; they must not be
        changed before the result is there. Raises ValueError if a slot is named twice.
        """
        full = all(self._ages[slot] == self.memories.limit for slot in slots)
        step = self._full if full else self._young
        embeddings, kv, evicted = (each.to("cpu", non_blocking=True) for each in step(pictures, self._slots(slots)))
        for slot in slots:
            self._ages[slot] = min(self._ages[slot] + 1, self.memories.limit)
        copied = torch.cuda.Event() if self.backbone.device.type == "cuda" else None
        if copied:
            copied.record()
        return Fresh(embeddings=embeddings, kv=kv, evicted=evicted, copied=copied)

    def see(self, pictures: Tensor) -> Tensor:
        """Visual tokens [frames, tokens_per_frame, hidden] of pictures [frames, 3, side, side] uint8 on the device."""
        squares = normalise(pictures, self.backbone.mean, self.backbone.std, self.backbone.dtype)
        return self.backbone.project(self.backbone.look(squares))

    def remember(self, tokens: Tensor, slots: Tensor, *, full: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The language model's part: visual tokens to carriers, which go into the memories. Results as in `Fresh`.

        `full` says that none of the memories has a row to spare, so that nothing has to be masked.
        """
        backbone, memories = self.backbone, self.memories
        blocks = frame_block(backbone, tokens)
        counts = memories.counts[slots]
        positions = block_positions(backbone, next_position(backbone, counts)[:, None])
        cache = self._cache(slots)
        mask = None
        if not (full and sees_past_unmasked(backbone)):
            mask = attend(backbone, Carriers(keys=memories.keys, values=memories.values, counts=counts), blocks.shape[1])
        backbone.run(blocks, positions, cache, mask)
        keys, values = (each[..., 0, :] for each in unrotated(backbone, cache, self._newest, positions[..., -1:]))
        embeddings = blocks[:, -1, : backbone.hidden]
        evicted = memories.add(slots, embeddings, keys, values)
        return embeddings, torch.stack((keys, values)).permute(2, 1, 0, 3, 4).contiguous(), evicted

    def _cache(self, slots: Tensor) -> Cache:
        memories = self.memories
        cos, sin = (a[:, None] for a in self.backbone.angles(carrier_positions(self.backbone, memories.ranks(slots))))
        past = zip(self._prefix, memories.keys, memories.values, strict=True)
        return Cache(layers=[_Past(prefix, keys, values, slots, (cos, sin)) for prefix, keys, values in past])

    def _step(self, pictures: Tensor, slots: Tensor, *, full: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        device = self.backbone.device
        return self.remember(self.see(pictures.to(device, non_blocking=True)), slots.to(device, non_blocking=True), full=full)

    def _young(self, pictures: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._step(pictures, slots, full=False)

    def _slots(self, slots: Sequence[int]) -> Tensor:
        if len(set(slots)) < len(slots):
            raise ValueError(f"one frame a camera at a time, not {list(slots)}")
        chosen = torch.tensor(slots, dtype=torch.long)
        return chosen.pin_memory() if self.backbone.device.type == "cuda" else chosen
