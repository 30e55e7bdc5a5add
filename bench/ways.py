"""Other ways to remember frames, and the same with a part of the method taken out, asked the same questions."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any, get_args
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DynamicCache

from bench.held_out import SECONDS, Question, frames, questions, rightly
from bench.looking import looked_at
from model import context, dense
from model.backbone import Backbone
from model.context import Carriers, block_pass
from model.similarity import Similarity
from model.training_free import untaught
from model.videoscan import Decoded, VideoScan
from pipeline.core import CarrierKey, Frame, LivePolicy
from simulator.visits import CAMERAS

Film = Sequence[Sequence[Frame]]
Place = tuple[str, int]
Asking = Callable[[str, Sequence[Place]], tuple[Decoded, Sequence[CarrierKey]]]
"""From a question and the moments it may look at to an answer and the moments it did look at, in order of time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """A way to remember a film and to answer from what is left of it. `broken` puts something else in the place of a part of the method."""

    name: str
    tokens: int  # kept of a frame
    kv_bytes: int
    watch: Callable[[Film], Asking]
    broken: Callable[[], AbstractContextManager[Any]] = nullcontext


def by_carriers(
    name: str,
    scan: VideoScan,
    *,
    memory: bool = True,
    most: int | None = None,
    broken: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Way:
    """As VideoScan does; without `memory`, each frame is seen alone; an answer looks at the `most` relevant frames, or at all."""

    def watch(film: Film) -> Asking:
        memories = [scan.memory() for _ in CAMERAS]
        kept = {}
        for second, row in enumerate(film):
            for live, carrier in zip(memories, scan.prefill(row, memories), strict=True):
                kept[carrier.key.camera_id, second] = carrier
                if memory:
                    live.add(carrier)

        def asking(question: str, places: Sequence[Place]) -> tuple[Decoded, Sequence[CarrierKey]]:
            carriers = [kept[place] for place in places]
            if most:
                carriers = looked_at(scan, question, carriers, most)
            return scan.decode(question, carriers), [carrier.key for carrier in carriers]

        return asking

    spec = scan.backbone.spec
    tokens = spec.patches + (scan.mode == "carriers")
    return Way(name=name, tokens=tokens, kv_bytes=tokens * _kv_bytes(scan.backbone), watch=watch, broken=broken)


def by_frames(name: str, backbone: Backbone, last: int | None = None) -> Way:
    """All visual tokens of every frame, or of the `last` few of each camera, read anew for each question."""

    def watch(film: Film) -> Asking:
        def asking(question: str, places: Sequence[Place]) -> tuple[Decoded, Sequence[CarrierKey]]:
            seen = [film[second][CAMERAS.index(camera)] for camera, second in newest(places, last)]
            told = dense.decode(backbone, question, seen)
            return told, [CarrierKey(camera_id=frame.camera_id, at_ms=frame.captured_ms) for frame in seen]

        return asking

    tokens = backbone.tokens_per_frame
    return Way(name=name, tokens=tokens, kv_bytes=tokens * _kv_bytes(backbone), watch=watch)


def newest(places: Sequence[Place], last: int | None) -> list[Place]:
    """The last few of each camera, in their order."""
    by_camera: defaultdict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_camera[place[0]].append(place)
    kept = {place for each in by_camera.values() for place in each[-(last or len(each)) :]}
    return [place for place in places if place in kept]


def _kv_bytes(backbone: Backbone) -> int:
    """Of keys and values of one token, 16 bits each."""
    spec = backbone.spec
    return 2 * 2 * spec.layers * spec.kv_heads * spec.head_dim


# Parts taken out, as in the paper's ablation


@contextmanager
def without_embedding() -> Iterator[None]:
    """A carrier whose input says nothing of its frame (the learnt line break): what it knows it has by attention alone."""

    def frame_pass(backbone: Backbone, tokens: Tensor, past: Carriers, prefix: DynamicCache | None = None) -> Carriers:
        nothing = backbone.net.model.image_newline.expand(len(tokens), 1, -1)
        return block_pass(backbone, torch.cat((tokens, nothing), dim=1), past, prefix)

    with patch("model.videoscan.frame_pass", frame_pass):
        yield


@contextmanager
def without_kv() -> Iterator[None]:
    """A carrier that has seen nothing of its frame but the mean of its tokens."""

    def frame_pass(backbone: Backbone, tokens: Tensor, past: Carriers, prefix: DynamicCache | None = None) -> Carriers:
        return block_pass(backbone, tokens.mean(dim=1, keepdim=True), past, prefix)

    with patch("model.videoscan.frame_pass", frame_pass):
        yield


@contextmanager
def positions_as_in_the_public_code() -> Iterator[None]:
    """Frames begin one apart, though carriers stand a frame's length behind where theirs began: a question stands before the latest."""

    def carrier_positions(backbone: Backbone, ranks: Tensor) -> Tensor:
        return len(backbone.prefix) + ranks + backbone.frame_length - 1

    with patch.multiple(context, step=lambda backbone: 1, carrier_positions=carrier_positions):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Folders of models to compare with: taught on whole frames, on carriers alone (stage 1), and to read carriers in other ways."""

    base: Path | None = None
    alone: Path | None = None
    others: Sequence[Path] = ()


def ways(taught: Backbone, beside: Beside) -> list[Way]:
    """A row for each way that these models give. `others` are used as their longwatch.json says, and called by their folder."""
    base, alone = (Backbone.load(folder) if folder else None for folder in (beside.base, beside.alone))
    base_ways = [] if base is None else [
        by_frames("whole frames (dense base)", base),
        by_frames("the last 4 whole frames (dense base)", base, last=4),
        by_carriers("carriers, never taught (dense base)", VideoScan(base)),
        by_carriers("visual tokens kept (dense base)", retrieving(base)),
        by_carriers("the 16 most alike of them (ReKV-style, dense base)", retrieving(base), most=16),
    ]  # fmt: skip
    live = [by_carriers(f"VideoScan, M = {m}", VideoScan(taught, live=m)) for m in (8, 16, 32, 64)]
    policies = [by_carriers(f"VideoScan, M = 8, {policy}", VideoScan(taught, live=8, policy=policy)) for policy in get_args(LivePolicy)[1:]]
    patched = [by_carriers(f"VideoScan+, {n} patches", VideoScan(taught.used(patches=n))) for n in (8, "all")]
    spoilt = [
        by_carriers("without the embedding", VideoScan(taught), broken=without_embedding),
        by_carriers("without the KV", VideoScan(taught), broken=without_kv),
        by_carriers("without the live memory", VideoScan(taught), memory=False),
        by_carriers("the public code's positions", VideoScan(taught), broken=positions_as_in_the_public_code),
    ]
    stage_1 = [by_carriers("stage 1 alone", VideoScan(alone), broken=without_kv)] if alone else []
    others = [by_carriers(f"VideoScan, {folder.name}", VideoScan(Backbone.load(folder))) for folder in beside.others]
    return [*base_ways, *live, *policies, *others, *patched, *stage_1, *spoilt]


def retrieving(base: Backbone) -> VideoScan:
    """As a model is used that nobody taught carriers (`model.training_free`)."""
    free = base.used(**asdict(replace(untaught(base), evidence_heads=base.habits.evidence_heads)))
    return VideoScan(free, relevance=Similarity(free))


def compare(some: Sequence[Way], side: int, budget: int, seeds: Iterable[int]) -> list[dict[str, object]]:
    """A row for each way: what a frame costs to keep and to see, what an answer costs, and how often it is right, by family."""
    marks: list[list[tuple[str, bool]]] = [[] for _ in some]
    seeing: list[list[float]] = [[] for _ in some]
    answering: list[list[float]] = [[] for _ in some]
    for seed in seeds:
        film = frames(seed, side)
        asked = list(questions(seed, film, budget, Random(f"ways {seed}")))
        for way, own, see_ms, answer_ms in zip(some, marks, seeing, answering, strict=True):
            with way.broken():
                began = perf_counter()
                asking = way.watch(film)
                see_ms.append((perf_counter() - began) * 1000 / (SECONDS * len(CAMERAS)))
                for question in asked:
                    right, took_ms = _put(asking, question)
                    own.append((question.quiz.family, right))
                    answer_ms.append(took_ms)
    costs = [
        {"tokens": way.tokens, "KV bytes": way.kv_bytes, "prefill ms": median(seen), "answer ms": median(told)}
        for way, seen, told in zip(some, seeing, answering, strict=True)
    ]
    return [{"row": way.name, **by_family(own), **cost} for way, own, cost in zip(some, marks, costs, strict=True)]


def _put(asking: Asking, question: Question) -> tuple[bool, float]:
    """Whether the answer is right, and the milliseconds it took."""
    began = perf_counter()
    decoded, looked_at = asking(question.quiz.text, question.places)
    took_ms = (perf_counter() - began) * 1000
    return rightly(question.quiz, question.watch, decoded, looked_at), took_ms


def by_family(marks: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """The part of each family that is right, and of all; and how many were asked."""
    families: defaultdict[str, list[bool]] = defaultdict(list)
    for family, was_right in marks:
        families[family].append(was_right)
    shares = {family: sum(each) / len(each) for family, each in sorted(families.items())}
    return shares | {"all": sum(was_right for _, was_right in marks) / len(marks), "questions": len(marks)}


def rows(model: Path, beside: Beside, seeds: Iterable[int], budget: int | None = None) -> list[dict[str, object]]:
    """Load the models, and compare, over at most so many carriers a question (None: as many as the first model takes)."""
    taught = Backbone.load(model)
    return compare(ways(taught, beside), taught.vision.image_size, budget or taught.habits.budget, seeds)
