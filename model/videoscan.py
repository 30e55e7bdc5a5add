"""VideoScan (arXiv 2503.09387): each frame becomes one semantic carrier; questions are answered from carriers alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from model.arrays import numpy_dtype, to_numpy, to_tensor
from model.backbone import Backbone
from model.context import Carriers, by_carrier, frame_pass, next_position, prefix_cache
from model.decoding import LONGEST, Read, greedy
from model.decoding import read as read_questions
from model.memory import LiveMemory
from model.patches import PatchBatch
from model.prompt import TEXT
from model.relevance import Head
from pipeline import prefiller
from pipeline.core import Carrier, CarrierKey, Frame, LivePolicy, LongwatchError, Patches, TimeRange


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

    def __init__(
        self, backbone: Backbone, *, live: int | None = None, policy: LivePolicy | None = None, relevance: Head | None = None
    ) -> None:
        self.backbone = backbone
        self.head = relevance.digest if relevance else None
        self._relevance = relevance
        self.mode = backbone.habits.mode
        self.looks = bool(backbone.habits.evidence_heads)  # taught to look at what shows the answer, and elsewhere when nothing does
        self.budget, self.recent = backbone.habits.budget, backbone.habits.recent
        self._live = live or backbone.habits.live
        self._policy = policy or backbone.habits.live_policy
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
        return LiveMemory(self._live, carriers, self._policy)

    @torch.inference_mode()
    def prefill(self, frames: Sequence[Frame], memories: Sequence[prefiller.LiveMemory]) -> list[Carrier]:
        """Turn one frame of each of several cameras into its carrier (3.2, the first phase).

        Each frame attends to its own camera's memory only. The memories are not changed; the frames' tokens are dropped.
        """
        features = self.backbone.features([frame.image for frame in frames])
        tokens = self.backbone.project(features)
        past = self._collate([memory.carriers for memory in memories])
        made = frame_pass(self.backbone, tokens, past, self._prefix)
        kv = to_numpy(torch.stack((made.keys, made.values))[..., 0, :].permute(2, 1, 0, 3, 4))  # [batch, layers, 2, heads, dim]
        embeddings = tokens.mean(1)[:, : self.backbone.hidden]
        means = embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings  # to be numbers, in numpy too
        parts = zip(frames, to_numpy(means), kv, _patches(made), strict=True)
        carriers = [self._carrier(*part) for part in parts]
        if self._relevance is None:
            return carriers
        vectors = self._relevance.vectors(self.backbone, features, carriers)
        return [replace(carrier, vector=vector.copy()) for carrier, vector in zip(carriers, vectors, strict=True)]

    @torch.inference_mode()
    def sought(self, question: str) -> NDArray[np.float32] | None:
        """What a question looks for [VECTOR]: its product with a carrier's vector is the logit of being there; None without a head."""
        return None if self._relevance is None else self._relevance.sought(self.backbone, question)

    @torch.inference_mode()
    def decode(self, question: str, carriers: Sequence[Carrier], *, longest: int = LONGEST) -> Decoded:
        """Answer from carriers in order of time (the second phase), greedily, with at most `longest` tokens.

        Raises ForeignCarrier if one of them was made by another model.
        """
        logits, attention, cache, position = self._ask(question, carriers)
        tokens, sureness = greedy(self.backbone, logits, cache, position, longest)
        return Decoded(text=self.backbone.words(tokens), probability=sureness, attention=attention)

    @torch.inference_mode()
    def judge(self, questions: Sequence[str], sets: Sequence[Sequence[Carrier]]) -> list[Decoded]:
        """The probability of yes, against no, to each question over its set of carriers, all in one pass. Raises ForeignCarrier."""
        told, attention = self.read(questions, sets)
        odds = told.logits.double().softmax(-1)
        yes, no = odds[:, self._yes].sum(-1), odds[:, self._no].sum(-1)
        sure = zip((yes / (yes + no)).tolist(), attention, strict=True)
        return [Decoded(text="yes" if each >= 0.5 else "no", probability=each, attention=paid) for each, paid in sure]

    @torch.inference_mode()
    def shown(self, question: str, sets: Sequence[Sequence[Carrier]]) -> list[float]:
        """How far each set shows what is asked about: the share of the look that rests on it, where it `looks`. Raises ForeignCarrier."""
        return [float(paid.sum()) for paid in self.read([question] * len(sets), sets)[1]]

    @torch.inference_mode()
    def read(self, questions: Sequence[str], sets: Sequence[Sequence[Carrier]]) -> tuple[Read, list[NDArray[np.float64]]]:
        """Read a question over each set of carriers, all in one pass; and the attention paid to each carrier. Raises ForeignCarrier."""
        for carrier in (carrier for carriers in sets for carrier in carriers):
            if carrier.fingerprint != self.fingerprint:
                raise ForeignCarrier(f"carrier {carrier.key} was made by model {carrier.fingerprint}, this is {self.fingerprint}")
        suffixes = [self.backbone.suffix(question) for question in questions]
        past = self._collate(sets)
        told = read_questions(self.backbone, past, suffixes, self._prefix, attention=True)
        assert told.attention is not None
        paid = by_carrier(self.backbone, past, told.attention)
        return told, [self._evidence(paid[:, i, :, : len(carriers)]) for i, carriers in enumerate(sets)]

    def _ask(self, question: str, carriers: Sequence[Carrier]) -> tuple[Tensor, NDArray[np.float64], DynamicCache, int]:
        """Scores of the answer's first token, the attention per carrier, and where to go on from."""
        told, (attention,) = self.read([question], [carriers])
        return told.logits[0], attention, told.cache, int(told.positions[0])

    def _evidence(self, attention: Tensor) -> NDArray[np.float64]:
        """Attention [layers, heads, carriers] from where the answer begins, to each with its patches, averaged over the evidence heads."""
        heads = self.backbone.habits.evidence_heads
        taught = heads or [(layer, head) for layer in range(attention.shape[0]) for head in range(attention.shape[1])]
        rows = torch.stack([attention[layer, head] for layer, head in taught])
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
        counts = torch.tensor([len(s) for s in sets], device=device)
        return Carriers(keys=tensor[0], values=tensor[1], counts=counts, patches=self._beside(sets, longest))

    def _beside(self, sets: Sequence[Sequence[Carrier]], longest: int) -> PatchBatch | None:
        """The patches of carriers that have any."""
        spec, device = self.backbone.spec, self.backbone.device
        if not spec.patches:
            return None
        kv = np.zeros((len(sets), longest, spec.layers, 2, spec.kv_heads, spec.patches, spec.head_dim), numpy_dtype(spec.dtype))
        places = np.zeros((len(sets), longest, spec.layers, spec.patches), np.int64)
        kept = np.zeros((len(sets), longest), np.bool_)
        for row, carriers in enumerate(sets):
            for at, carrier in enumerate(carriers):
                if (own := carrier.patches) is None:
                    continue
                if own.places.shape != places.shape[2:] or own.places.max() >= spec.tokens_per_frame:
                    raise ForeignCarrier(f"carrier {carrier.key} has patches that no frame of this model has")
                kv[row, at], places[row, at], kept[row, at] = own.kv, own.places, True
        keys, values = to_tensor(kv, device, self.backbone.dtype).permute(3, 2, 0, 4, 1, 5, 6)
        at_places = torch.from_numpy(places).to(device).permute(2, 0, 1, 3)
        return PatchBatch(keys=keys, values=values, places=at_places, kept=torch.from_numpy(kept).to(device))

    def _carrier(self, frame: Frame, embedding: NDArray[Any], kv: NDArray[Any], patches: Patches | None) -> Carrier:
        return Carrier(
            key=CarrierKey(camera_id=frame.camera_id, at_ms=frame.captured_ms),
            fingerprint=self.fingerprint,
            span=TimeRange(start_ms=frame.captured_ms, end_ms=frame.captured_ms),
            embedding=embedding.copy(),  # not a view, which would keep the whole batch in memory
            kv=kv.copy(),
            patches=patches,
        )

    def _answers(self, *words: str) -> list[int]:
        """First tokens of the ways to write a word, with and without a space before it."""
        spelt = (self.backbone.tokenizer(form, add_special_tokens=False).input_ids for w in words for form in (w, f" {w}"))
        return sorted({tokens[0] for tokens in spelt})


def _patches(made: Carriers) -> list[Patches | None]:
    """The patches of new carriers, one of each camera."""
    if (beside := made.patches) is None:
        return [None] * len(made.counts)
    kv = to_numpy(torch.stack((beside.keys, beside.values))[:, :, :, :, 0].permute(2, 1, 0, 3, 4, 5))  # [batch, layers, 2, heads, n, dim]
    places = beside.places[:, :, 0].permute(1, 0, 2).cpu().numpy().astype(np.uint16)
    return [Patches(kv=own.copy(), places=at.copy()) for own, at in zip(kv, places, strict=True)]
