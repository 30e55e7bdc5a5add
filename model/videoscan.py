"""VideoScan (arXiv 2503.09387): each frame becomes one semantic carrier; questions are answered from carriers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from model.arrays import numpy_dtype, to_numpy, to_tensor
from model.backbone import Backbone
from model.context import Carriers, attend, frame_pass, next_position, prefix_cache, with_carriers
from model.decoding import greedy
from model.memory import LiveMemory
from model.relevance import Relevance, read
from pipeline import prefiller
from pipeline.core import Carrier, CarrierKey, Frame, LongwatchError, TimeRange

TEXT = 128  # positions left for a question and its answer


class ForeignCarrier(LongwatchError):
    """A carrier made by another model, which this one cannot read."""


class ContextTooShort(LongwatchError):
    """More carriers at a time than the backbone has positions for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """An answer in the model's words, its probability, and the attention it paid to each carrier or whole frame (sums to <= 1)."""

    text: str
    probability: float
    attention: NDArray[np.float64]


class VideoScan:
    """The two phases over one backbone. Stateless: memories and carriers come from, and go back to, the caller.

    Raises ContextTooShort if a full memory, or a full budget and a question, would stand further back than the backbone knows.
    """

    def __init__(self, backbone: Backbone, *, live: int | None = None, relevance: Relevance | None = None) -> None:
        self.backbone = backbone
        self.head = relevance.digest if relevance else None
        self._relevance = relevance
        self.budget = backbone.habits.budget
        self._live = live or backbone.habits.live
        self.fingerprint = backbone.spec.fingerprint
        self._yes = self._answers("yes", "Yes")
        self._no = self._answers("no", "No")
        self._check_room(max(self._live, self.budget))
        with torch.inference_mode():
            self._prefix = prefix_cache(backbone, 1)

    def _check_room(self, carriers: int) -> None:
        known = self.backbone.config.max_position_embeddings
        needed = int(next_position(self.backbone, torch.tensor(carriers))) + max(self.backbone.frame_length, TEXT)
        if needed > known:
            raise ContextTooShort(f"{carriers} carriers need {needed} positions and the backbone knows {known}: use fewer, or space by one")

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
        keys, values = frame_pass(self.backbone, tokens, past, self._prefix)
        kv = to_numpy(torch.stack((keys, values))[..., 0, :].permute(2, 1, 0, 3, 4))  # [batch, layers, 2, heads, dim]
        embeddings = tokens.mean(1)[:, : self.backbone.hidden]
        means = embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings  # to be numbers, in numpy too
        return [self._carrier(frame, mean, made) for frame, mean, made in zip(frames, to_numpy(means), kv, strict=True)]

    @torch.inference_mode()
    def vectors(self, carriers: Sequence[Carrier]) -> NDArray[np.float32] | None:
        """What the relevance of carriers is scored on [carriers, VECTOR]; None without a head."""
        if self._relevance is None:
            return None
        kv = to_tensor(np.stack([carrier.kv for carrier in carriers]), self.backbone.device, torch.float32)
        return to_numpy(self._relevance.carriers(kv))

    @torch.inference_mode()
    def sought(self, question: str) -> NDArray[np.float32] | None:
        """What a question looks for [VECTOR]: its product with a carrier's vector is the logit of being there; None without a head."""
        if self._relevance is None:
            return None
        return to_numpy(self._relevance.questions(read(self.backbone, question)[None])[0])

    @torch.inference_mode()
    def decode(self, question: str, carriers: Sequence[Carrier], *, longest: int = 48) -> Decoded:
        """Answer from carriers in order of time (the second phase), greedily, with at most `longest` tokens.

        Raises ForeignCarrier if one of them was made by another model.
        """
        logits, attention, cache, position = self._ask(question, carriers)
        tokens, sureness = greedy(self.backbone, logits, cache, position, longest)
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
        cache = with_carriers(self.backbone, past, self._prefix)
        mask = attend(self.backbone, past, suffix.shape[1])
        out = self.backbone.run(self.backbone.embed(suffix), positions, cache, mask, attentions=True)
        logits = self.backbone.logits(out.last_hidden_state[0, -1])
        return logits, self._evidence(out.attentions, len(carriers)), cache, start + suffix.shape[1]

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
        kv = np.zeros((len(sets), longest, spec.layers, 2, spec.kv_heads, spec.head_dim), numpy_dtype(spec.dtype))
        for row, carriers in zip(kv, sets, strict=True):
            for place, carrier in zip(row, carriers, strict=False):
                place[...] = carrier.kv
        tensor = to_tensor(kv, device, self.backbone.dtype).permute(3, 2, 0, 4, 1, 5)
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
