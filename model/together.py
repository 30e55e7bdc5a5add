"""The second phase for many questions at once: answers in a batch that grows and shrinks, rules of a camera over one copy of its carriers.

The arithmetic is that of `VideoScan.decode` and `judge`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from model.backbone import Backbone
from model.context import Carriers, attend, next_position, with_carriers
from model.decoding import Read, likeliest
from model.fast import Graphed

ROOM = 16  # columns that are made at a time for what will be said


class _Room(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer's keys and values with room for what comes, written in place in the column `at`, which all layers share."""

    def __init__(self, keys: Tensor, values: Tensor, at: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self._at = keys, values, at
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All of it, with the new written in."""
        self.keys.index_copy_(2, self._at, key_states)
        self.values.index_copy_(2, self._at, value_states)
        return self.keys, self.values


class Answering:
    """Questions being answered, all a token further at each step; between steps they join and leave (continuous batching: Orca, vLLM).

    `tokens` and `probabilities` [rows] are of the newest token of each answer. All pasts end in the same column, so that one write
    takes what every row says: `[padding][prefix][carriers][question][answer]`; what is padding is masked. Shapes stay the same from
    step to step while nobody joins or leaves and the room lasts; `graphs` are recorded for as long. Not thread-safe.
    """

    def __init__(self, backbone: Backbone, *, room: int = ROOM, graphs: bool = False) -> None:
        self._backbone, self._room, self._graphs = backbone, room, graphs
        device, config = backbone.device, backbone.config
        self.tokens = torch.zeros(0, dtype=torch.long, device=device)
        self.probabilities = torch.zeros(0, dtype=torch.double, device=device)
        self._positions = self.tokens[:, None]
        past = torch.zeros(0, config.num_key_value_heads, 0, backbone.head_dim, dtype=backbone.dtype, device=device)
        self._lay([torch.zeros(0, 1, 0, 1, dtype=torch.bool, device=device), *[past] * (2 * config.num_hidden_layers)])

    @torch.inference_mode()
    def join(self, questions: Read) -> None:
        """Take in more questions, as the last rows; the first token of their answers is there."""
        tokens, probabilities = likeliest(questions.logits, self._backbone.ends)
        self.tokens, self.probabilities = torch.cat((self.tokens, tokens)), torch.cat((self.probabilities, probabilities))
        self._positions = torch.cat((self._positions, questions.positions[:, None]))
        theirs = [questions.seen[:, None, :, None], *(each for layer in questions.cache.layers for each in (layer.keys, layer.values))]
        self._lay([_stacked(*pair) for pair in zip(self._filled, theirs, strict=True)])

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Only these go on, in this order."""
        kept = torch.tensor(rows, dtype=torch.long, device=self._backbone.device)
        self.tokens, self.probabilities, self._positions = self.tokens[kept], self.probabilities[kept], self._positions[kept]
        self._lay([each[kept] for each in self._filled])

    @torch.inference_mode()
    def next(self) -> Tensor:
        """The next token of every answer [rows]."""
        if self._width == self._columns[0].shape[2]:
            self._lay(self._filled)
        self.tokens, self.probabilities = self._step(self.tokens)
        self._width += 1
        return self.tokens

    def _next(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        seen = self._columns[0].index_fill_(2, self._at, True)[..., 0]
        out = self._backbone.run(self._backbone.embed(tokens[:, None]), self._positions, self._cache, seen)
        self._positions += 1
        self._at += 1
        return likeliest(self._backbone.logits(out.last_hidden_state[:, -1]))

    @property
    def _filled(self) -> list[Tensor]:
        return [each[:, :, : self._width] for each in self._columns]

    def _lay(self, columns: list[Tensor]) -> None:
        """Go on from these [rows, heads, columns, dim], what is seen first: without those that nobody sees, and with room."""
        used = columns[0].any(0).flatten().nonzero()
        first = int(used[0]) if len(used) else columns[0].shape[2]
        self._width = columns[0].shape[2] - first
        room = self._room + -(self._width + self._room) % 8  # rows of 16 bytes are what fused attention likes
        self._columns = [pad(each[:, :, first:], (0, 0, 0, room)) for each in columns]
        self._at = torch.tensor([self._width], device=self._backbone.device)
        layers = zip(self._columns[1::2], self._columns[2::2], strict=True)
        self._cache = Cache(layers=[_Room(keys, values, self._at) for keys, values in layers])
        self._step: Any = Graphed(self._next, self._backbone.device) if self._graphs else self._next


def _stacked(ours: Tensor, theirs: Tensor) -> Tensor:
    """The rows of both [rows, heads, columns, dim], ending in the same column."""
    width = max(ours.shape[2], theirs.shape[2])
    return torch.cat([pad(each, (0, 0, width - each.shape[2], 0)) for each in (ours, theirs)])


@torch.inference_mode()
def judge(
    backbone: Backbone, carriers: Carriers, rules: Sequence[Sequence[int]], yes: Sequence[int], no: Sequence[int], prefix: DynamicCache
) -> Tensor:
    """The probability of yes, against no, of every rule at every camera: [cameras, rules] float64.

    The suffixes of the rules stand side by side behind one copy of a camera's carriers; none sees another. `prefix` as in
    `with_carriers`. Says nothing of where it looked.
    """
    device = backbone.device
    lengths = [len(rule) for rule in rules]
    rule = torch.tensor([i for i, n in enumerate(lengths) for _ in range(n)], device=device)
    within = torch.tensor([at for n in lengths for at in range(n)], device=device)
    tokens = torch.tensor([token for each in rules for token in each], device=device)[None].expand(len(carriers.counts), -1)
    positions = next_position(backbone, carriers.counts)[:, None] + within
    mask = attend(backbone, carriers, len(rule))
    mask[:, :, -len(rule) :] &= rule[:, None] == rule[None, :]
    out = backbone.run(backbone.embed(tokens), positions, with_carriers(backbone, carriers, prefix), mask)
    ends = torch.tensor(lengths, device=device).cumsum(0) - 1
    scores = backbone.logits(out.last_hidden_state[:, ends]).double()
    return torch.sigmoid(scores[..., list(yes)].logsumexp(-1) - scores[..., list(no)].logsumexp(-1))
