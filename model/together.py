"""The second phase for many questions at once: answers in one batch, rules of one camera over one copy of its carriers.

The arithmetic is that of `VideoScan.decode` and `judge`, without the evidence: fused attention never writes down where it looked.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from model.backbone import Backbone
from model.context import Carriers, attend, next_position, prefix_cache, with_carriers
from model.fast import Graphed


class _Room(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer's keys and values with room for what comes, written in place at `rows`, which all layers share."""

    def __init__(self, keys: Tensor, values: Tensor, room: int, rows: "_Rows") -> None:
        super().__init__()
        self.keys, self.values = (torch.cat((each, each.new_zeros(*each.shape[:2], room, each.shape[3])), 2) for each in (keys, values))
        self.is_initialized, self._rows = True, rows

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All of it, with the new written in."""
        self.keys.index_copy_(2, self._rows.at, key_states)
        self.values.index_copy_(2, self._rows.at, value_states)
        return self.keys, self.values


class _Rows:
    """Where the next keys and values go: `at` [tokens]."""

    def __init__(self, at: Tensor) -> None:
        self.at = at


class Decoder:
    """Answers batches of questions over carriers. The prefix is computed once, for all of them. Not thread-safe."""

    def __init__(self, backbone: Backbone, *, graphs: bool = False) -> None:
        self.backbone = backbone
        self._graphs = graphs
        with torch.inference_mode():
            self._prefix = prefix_cache(backbone, 1)

    @torch.inference_mode()
    def answer(self, carriers: Carriers, suffixes: Sequence[Sequence[int]], *, longest: int) -> list[list[int]]:
        """Greedy answers, at most `longest` tokens each and without the end token, to one question over each set of carriers.

        A suffix is `Backbone.suffix` of a question.
        """
        batch = self.begin(carriers, suffixes, longest=longest)
        end, spoken = self.backbone.tokenizer.eos_token_id, [batch.tokens.tolist()]
        open_rows = [token != end for token in spoken[0]]
        while any(open_rows) and len(spoken) < longest:
            spoken.append(batch.next().tolist())
            open_rows = [still and token != end for still, token in zip(open_rows, spoken[-1], strict=True)]
        rows = [list(row) for row in zip(*spoken, strict=True)]
        return [row[: row.index(end)] if end in row else row for row in rows]

    @torch.inference_mode()
    def begin(self, carriers: Carriers, suffixes: Sequence[Sequence[int]], *, longest: int) -> "Answering":
        """Read the questions; the first token of every answer is there."""
        past = self.cache(carriers)
        return Answering(self.backbone, past, carriers, suffixes, longest, graphs=self._graphs)

    @torch.inference_mode()
    def judge(self, carriers: Carriers, rules: Sequence[Sequence[int]], yes: Sequence[int], no: Sequence[int]) -> Tensor:
        """The probability of yes, against no, of every rule at every camera: [cameras, rules] float64.

        The suffixes of the rules stand side by side behind one copy of a camera's carriers; none sees another.
        """
        device = self.backbone.device
        lengths = [len(rule) for rule in rules]
        rule = torch.tensor([i for i, n in enumerate(lengths) for _ in range(n)], device=device)
        within = torch.tensor([at for n in lengths for at in range(n)], device=device)
        tokens = torch.tensor([token for each in rules for token in each], device=device)[None].expand(len(carriers.counts), -1)
        positions = next_position(self.backbone, carriers.counts)[:, None] + within
        mask = attend(self.backbone, carriers, len(rule))
        mask[:, :, -len(rule) :] &= rule[:, None] == rule[None, :]
        out = self.backbone.run(self.backbone.embed(tokens), positions, self.cache(carriers), mask)
        ends = torch.tensor(lengths, device=device).cumsum(0) - 1
        scores = self.backbone.logits(out.last_hidden_state[:, ends]).double()
        return torch.sigmoid(scores[..., list(yes)].logsumexp(-1) - scores[..., list(no)].logsumexp(-1))

    def cache(self, carriers: Carriers) -> DynamicCache:
        """What a question over these carriers can look at."""
        return with_carriers(self.backbone, carriers, self._prefix)


class Answering:
    """A batch of questions being answered, all a token further at each step: static shapes from the second token on.

    `tokens` [batch] are the newest. The past is `[prefix][carriers][questions][answers]`, padded; what is padding is masked.
    """

    def __init__(
        self, backbone: Backbone, past: DynamicCache, carriers: Carriers, suffixes: Sequence[Sequence[int]], longest: int, *, graphs: bool
    ) -> None:
        device = backbone.device
        lengths = torch.tensor([len(each) for each in suffixes], device=device)
        width, start = int(max(map(len, suffixes))), past.get_seq_length()
        padded = torch.tensor([[*each, *[0] * (width - len(each))] for each in suffixes], device=device)
        room = width + longest + (-(start + width + longest)) % 8  # rows of 16 bytes are what fused attention likes
        self._backbone = backbone
        self._rows = _Rows(torch.arange(start, start + width, device=device))
        self._cache = Cache(layers=[_Room(layer.keys, layer.values, room, self._rows) for layer in past.layers])
        shown = attend(backbone, carriers, width)  # a question's padding is behind it: nothing of it is seen but by itself
        mask = torch.nn.functional.pad(shown, (0, room - width))
        begin = next_position(backbone, carriers.counts)
        hidden = self._run(padded, begin[:, None] + torch.arange(width, device=device), mask)
        self.tokens = self._best(hidden[torch.arange(len(suffixes), device=device), lengths - 1])
        self._seen = mask[:, -1:].clone()
        self._seen[:, 0, start : start + width] = torch.arange(width, device=device) < lengths[:, None]
        self._positions = (begin + lengths)[:, None]
        self._rows.at = torch.tensor([start + width], device=device)
        self._step: Any = Graphed(self._next, device) if graphs else self._next

    @torch.inference_mode()
    def next(self) -> Tensor:
        """The next token of every answer [batch]."""
        self.tokens = self._step(self.tokens)
        return self.tokens

    def _next(self, tokens: Tensor) -> Tensor:
        self._seen.index_fill_(2, self._rows.at, True)
        hidden = self._run(tokens[:, None], self._positions, self._seen)
        self._positions += 1
        self._rows.at += 1
        return self._best(hidden[:, -1])

    def _run(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self._backbone.run(self._backbone.embed(tokens), positions, self._cache, mask).last_hidden_state
        return hidden

    def _best(self, hidden: Tensor) -> Tensor:
        return self._backbone.logits(hidden).argmax(-1)
