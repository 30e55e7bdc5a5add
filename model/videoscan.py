"""VideoScan (arXiv 2503.09387): each frame becomes one semantic carrier; questions are answered from carriers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from model.backbone import Backbone
from model.context import Carriers, attend, frame_block, next_position, unrotated, with_carriers
from model.memory import LiveMemory
from pipeline import prefiller
from pipeline.core import Carrier, CarrierKey, Frame, LongwatchError, TimeRange


class ForeignCarrier(LongwatchError):
    """A carrier made by another model, which this one cannot read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """An answer in the model's words, its probability, and the attention [carriers] it paid to each carrier (sums to <= 1)."""

    text: str
    probability: float
    attention: NDArray[np.float64]


class VideoScan:
    """The two phases over one backbone. Stateless: memories and carriers come from, and go back to, the caller."""

    def __init__(self, backbone: Backbone, *, live: int | None = None) -> None:
        self.backbone = backbone
        self.budget = backbone.habits.budget
        self._live = live or backbone.habits.live
        self.fingerprint = backbone.spec.fingerprint
        self._yes = self._answers("yes", "Yes")
        self._no = self._answers("no", "No")

    def memory(self, carriers: Sequence[Carrier] = ()) -> LiveMemory:
        """A live memory for one camera, of the bounded size (M in the paper)."""
        return LiveMemory(self._live, carriers)

    @torch.inference_mode()
    def prefill(self, frames: Sequence[Frame], memories: Sequence[prefiller.LiveMemory]) -> list[Carrier]:
        """Turn one frame of each of several cameras into its carrier (3.2, the first phase).

        Each frame attends to its own camera's memory only. The memories are not changed; the frames' tokens are dropped.
        """
        tokens = self.backbone.see([frame.image for frame in frames])
        past = self._collate([memory.carriers for memory in memories])
        embeddings, keys, values = self._frame_pass(tokens, past)
        kv = torch.stack((keys, values))[..., 0, :].permute(2, 1, 0, 3, 4).cpu().numpy()  # [batch, layers, 2, heads, dim]
        means = embeddings.cpu().numpy()
        return [self._carrier(frame, means[i], kv[i]) for i, frame in enumerate(frames)]

    def _frame_pass(self, tokens: Tensor, past: Carriers) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [batch, hidden], un-rotated keys and values [layers, batch, heads, 1, dim] of the frames' carriers."""
        blocks = frame_block(self.backbone, tokens)
        size = blocks.shape[1]
        cache = with_carriers(self.backbone, past)
        positions = next_position(self.backbone, past.counts)[:, None] + torch.arange(size, device=self.backbone.device)
        self.backbone.run(blocks, positions, cache, attend(self.backbone, past, size))
        row = torch.tensor([cache.get_seq_length() - 1], device=self.backbone.device)
        keys, values = unrotated(self.backbone, cache, row, positions[:, -1:])
        return blocks[:, -1], keys, values

    @torch.inference_mode()
    def decode(self, question: str, carriers: Sequence[Carrier], *, longest: int = 48) -> Decoded:
        """Answer from carriers in order of time (the second phase), greedily, with at most `longest` tokens.

        Raises ForeignCarrier if one of them was made by another model.
        """
        logits, attention, cache, position = self._ask(question, carriers)
        tokens: list[int] = []
        sureness = 1.0
        while len(tokens) < longest:
            odds = logits.double().softmax(-1)
            token = int(odds.argmax())
            sureness *= float(odds[token])
            if token == self.backbone.tokenizer.eos_token_id:
                break
            tokens.append(token)
            logits = self._next(token, position + len(tokens) - 1, cache, len(carriers))
        return Decoded(text=self.backbone.words(tokens), probability=sureness, attention=attention)

    @torch.inference_mode()
    def judge(self, question: str, carriers: Sequence[Carrier]) -> Decoded:
        """The probability of yes, against no, to a question."""
        logits, attention, _, _ = self._ask(question, carriers)
        odds = logits.double().softmax(-1)
        yes, no = float(odds[self._yes].sum()), float(odds[self._no].sum())
        return Decoded(text="yes" if yes >= no else "no", probability=yes / (yes + no), attention=attention)

    def _ask(self, question: str, carriers: Sequence[Carrier]) -> tuple[Tensor, NDArray[np.float64], DynamicCache, int]:
        """Scores of the answer's first token, the attention per carrier, and where to go on from."""
        for carrier in carriers:
            if carrier.fingerprint != self.fingerprint:
                raise ForeignCarrier(f"carrier {carrier.key} was made by model {carrier.fingerprint}, this is {self.fingerprint}")
        past = self._collate([carriers])
        suffix = torch.tensor([self.backbone.suffix(question)], device=self.backbone.device)
        start = int(next_position(self.backbone, past.counts))
        positions = start + torch.arange(suffix.shape[1], device=self.backbone.device)[None]
        cache = with_carriers(self.backbone, past)
        mask = attend(self.backbone, past, suffix.shape[1])
        out = self.backbone.run(self.backbone.embed(suffix), positions, cache, mask, attentions=True)
        logits = self.backbone.logits(out.last_hidden_state[0, -1])
        return logits, self._evidence(out.attentions, len(carriers)), cache, start + suffix.shape[1]

    def _next(self, token: int, position: int, cache: DynamicCache, carriers: int) -> Tensor:
        tokens = torch.tensor([[token]], device=self.backbone.device)
        mask = torch.ones(1, 1, cache.get_seq_length() + 1, dtype=torch.bool, device=self.backbone.device)
        positions = torch.tensor([[position]], device=self.backbone.device)
        out = self.backbone.run(self.backbone.embed(tokens), positions, cache, mask)
        return self.backbone.logits(out.last_hidden_state[0, -1])

    def _evidence(self, attentions: Any, count: int) -> NDArray[np.float64]:
        """Attention from where the answer begins to each carrier, averaged over the evidence heads."""
        start = len(self.backbone.prefix)
        heads = self.backbone.habits.evidence_heads
        taught = heads or [(layer, head) for layer in range(len(attentions)) for head in range(attentions[0].shape[1])]
        rows = torch.stack([attentions[layer][0, head, -1, start : start + count] for layer, head in taught])
        paid = rows.double().mean(0)
        # Heads that were never taught rest mostly on the prefix: only how they divide what is left says something.
        return (paid if heads else paid / paid.sum()).cpu().numpy()

    def _collate(self, sets: Sequence[Sequence[Carrier]]) -> Carriers:
        spec, device = self.backbone.spec, self.backbone.device
        longest = max(map(len, sets))
        kv = np.zeros((len(sets), longest, spec.layers, 2, spec.kv_heads, spec.head_dim), np.dtype(spec.dtype))
        for row, carriers in zip(kv, sets, strict=True):
            for place, carrier in zip(row, carriers, strict=False):
                place[...] = carrier.kv
        tensor = torch.from_numpy(kv).to(device, self.backbone.dtype).permute(3, 2, 0, 4, 1, 5)
        return Carriers(keys=tensor[0], values=tensor[1], counts=torch.tensor([len(s) for s in sets], device=device))

    def _carrier(self, frame: Frame, embedding: NDArray[Any], kv: NDArray[Any]) -> Carrier:
        return Carrier(
            key=CarrierKey(camera_id=frame.camera_id, at_ms=frame.captured_ms),
            fingerprint=self.fingerprint,
            span=TimeRange(start_ms=frame.captured_ms, end_ms=frame.captured_ms),
            embedding=embedding.copy(),  # not a view, which would keep the whole batch in memory
            kv=kv.copy(),
        )

    def _answers(self, *words: str) -> list[int]:
        """First tokens of the ways to write a word, with and without a space before it."""
        spelt = (self.backbone.tokenizer(form, add_special_tokens=False).input_ids for w in words for form in (w, f" {w}"))
        return sorted({tokens[0] for tokens in spelt})
