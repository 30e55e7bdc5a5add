"""Answering from carriers against answering from the frames: time to the first token, and to the end of an answer.

Every way answers the same question about the same frames with the same network, from the host's memory; reading from Redis is measured
by bench.memory. Words do not matter to the time, so carriers and the middle model's weights are random, and no answer ends early.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, DynamicCache

from bench.looking import Remembered
from bench.system.figures import Table, ms
from model import dense, embedded, relevance
from model.backbone import Backbone
from model.decoding import greedy
from model.relevance import Relevance
from model.videoscan import VideoScan
from pipeline.core import VECTOR, Carrier, CarrierKey, Frame, Patches, TimeRange

QUESTION = "Was there a red car at the gate?"
TOKENS = 16  # of each answer
RETRIEVED = 64  # frames that the retrieving baseline attends to
POSITIONS = 1 << 20  # more than any way here needs; the embedded model's own 4,096 would be too few for the dense one
COLUMNS = ("model", "frames", "way", "first token ms", "lowest", "highest", "whole answer ms", "first: of all carriers'", "whole", "runs")
CARRIERS, CHOSEN = "all carriers", "chosen carriers"
DENSE, REKV = "dense", "ReKV-style"

Opened = tuple[Tensor, DynamicCache, int]  # scores of the first token, the cache, and where the answer goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large it is asked for. A baseline that would by its growth take longer than `longest_s` is not run."""

    frames: tuple[int, ...]
    models: tuple[str, ...]
    seconds: float  # of repetitions of one way
    longest_s: float


FULL = Sizes(frames=(16, 64, 256, 1024), models=("embedded", "middle"), seconds=3, longest_s=200)
QUICK = Sizes(frames=(64, 256), models=("embedded",), seconds=1, longest_s=20)
TINY = Sizes(frames=(2, 4), models=("embedded",), seconds=0, longest_s=20)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """Some frames, what is kept of them, and how to choose among it."""

    film: list[Frame]
    carriers: list[Carrier]
    whole: list[Carrier]  # with all their visual tokens beside them
    vectors: NDArray[np.float32] | None
    embeddings: Tensor  # [frames, hidden], on which the retrieving baseline chooses


class Answering:
    """One network with and without visual tokens kept beside its carriers."""

    def __init__(self, name: str) -> None:
        backbone, head = network(name)
        backbone.net.config.text_config.max_position_embeddings = POSITIONS
        backbone.ends = frozenset()  # no answer ends early
        self.backbone = backbone
        self.scan = VideoScan(backbone, relevance=head)
        beside = Backbone(backbone.net, backbone.tokenizer, replace(backbone.habits, patches="all"), backbone.channels, backbone.identity)
        self._retrieving = VideoScan(beside)
        self.described = described(name, backbone)

    def asked(self, count: int) -> Asked:
        """Random pictures, and random numbers for what is kept of them."""
        r, spec = np.random.default_rng(0), self.scan.backbone.spec
        pictures = r.integers(0, 256, (16, 360, 640, 3), np.uint8)
        film = [Frame(camera_id="gate", pts_ns=i, captured_ms=1000 * i, image=pictures[i % 16]) for i in range(count)]
        tokens, shape = self.backbone.tokens_per_frame, (spec.layers, 2, spec.kv_heads)
        places = np.tile(np.arange(tokens, dtype=np.uint16), (spec.layers, 1))
        carriers = [
            Carrier(
                key=CarrierKey(camera_id="gate", at_ms=frame.captured_ms),
                fingerprint=self.scan.fingerprint,
                span=TimeRange(start_ms=frame.captured_ms, end_ms=frame.captured_ms),
                embedding=r.standard_normal(spec.hidden).astype(np.float32),
                kv=r.standard_normal((*shape, spec.head_dim)).astype(np.float32),
            )
            for frame in film
        ]
        kv = (r.standard_normal((*shape, tokens, spec.head_dim)).astype(np.float32) for _ in film)
        whole = [
            replace(carrier, fingerprint=self._retrieving.fingerprint, patches=Patches(kv=own, places=places))
            for carrier, own in zip(carriers, kv, strict=True)
        ]
        vectors = r.standard_normal((count, VECTOR), np.float32) if self.scan.head else None
        embeddings = torch.from_numpy(np.stack([carrier.embedding for carrier in carriers]))
        return Asked(film=film, carriers=carriers, whole=whole, vectors=vectors, embeddings=embeddings)

    def ways(self, asked: Asked) -> dict[str, Callable[[], Opened]]:
        """Each way to the scores of an answer's first token."""
        return {
            CARRIERS: lambda: _opened(self.scan, asked.carriers),
            CHOSEN: lambda: _opened(self.scan, self._chosen(asked)),
            REKV: lambda: _opened(self._retrieving, self._retrieved(asked)),
            DENSE: lambda: self._dense(asked.film),
        }

    def _chosen(self, asked: Asked) -> list[Carrier]:
        """As `pipeline.answerer` chooses: by relevance and a closer look where the model can tell, else evenly."""
        times = np.array([carrier.key.at_ms for carrier in asked.carriers])
        scored = {} if asked.vectors is None else {"gate": asked.vectors}
        memory = Remembered(times={"gate": times}, scored=scored, carrier=lambda key: asked.carriers[key.at_ms // 1000])
        return [asked.carriers[key.at_ms // 1000] for key in memory.wanted(self.scan, QUESTION, self.scan.budget)]

    def _retrieved(self, asked: Asked) -> list[Carrier]:
        """The frames most like the question's words, in order of time."""
        words = self.backbone.embed(torch.tensor(self.backbone.suffix(QUESTION))).mean(0)
        alike = cosine_similarity(asked.embeddings, words[None], dim=1)
        return [asked.whole[i] for i in sorted(alike.topk(min(RETRIEVED, len(alike))).indices.tolist())]

    def _dense(self, film: list[Frame]) -> Opened:
        told = dense.read(self.backbone, QUESTION, film)
        return told.logits, told.cache, told.position


def _opened(scan: VideoScan, carriers: list[Carrier]) -> Opened:
    told, _ = scan.read([QUESTION], [carriers])
    return told.logits[0], told.cache, int(told.positions[0])


def network(name: str) -> tuple[Backbone, Relevance | None]:
    """The embedded model; or the middle one, random: half of 0.5B's width and a quarter of its layers, with a tower to match."""
    trained = Backbone.load(embedded.FOLDER)
    if name == "embedded":
        return trained, relevance.load(trained, embedded.FOLDER)
    told = AutoConfig.from_pretrained(embedded.FOLDER)
    text = {"hidden_size": 448, "intermediate_size": 2432, "num_hidden_layers": 6, "num_attention_heads": 7, "num_key_value_heads": 1}
    tower = {"hidden_size": 288, "intermediate_size": 1152, "num_hidden_layers": 6, "num_attention_heads": 4}
    for section, sizes in ((told.text_config, text), (told.vision_config, tower)):
        section.update(sizes)
    told.text_config.layer_types = ["full_attention"] * text["num_hidden_layers"]
    torch.manual_seed(0)
    net = AutoModelForImageTextToText.from_config(told, attn_implementation="eager").eval().requires_grad_(False)
    return Backbone(net, AutoTokenizer.from_pretrained(embedded.FOLDER), replace(trained.habits, evidence_heads=())), None


def described(name: str, backbone: Backbone) -> str:
    """A model in numbers."""
    size = sum(weights.numel() for weights in backbone.net.parameters()) / 1e6
    c = backbone.config
    return f"{name}: {size:.1f} M parameters, {c.num_hidden_layers} x {c.hidden_size}, {backbone.tokens_per_frame} visual tokens a frame"


@torch.inference_mode()
def timed(way: Callable[[], Opened], backbone: Backbone) -> tuple[float, float]:
    """Seconds to the first token, and to the last."""
    began = time.perf_counter()
    logits, cache, position = way()
    int(logits.argmax())
    first = time.perf_counter() - began
    greedy(backbone, logits, cache, position, TOKENS)
    return first, time.perf_counter() - began


def rows(name: str, answering: Answering, sizes: Sizes) -> Iterator[list[object]]:
    """Of one model, every way at every length."""
    last: dict[str, tuple[int, float]] = {}
    for count in sizes.frames:
        ours: tuple[float, float] | None = None
        for way, ask in answering.ways(answering.asked(count)).items():
            before, took = last.get(way, (count, 0.0))
            expected = took * (count / before) ** 2
            if way == DENSE and expected > sizes.longest_s:
                yield [name, count, way, "not run: too long", *[math.nan] * 5, 0]
                continue
            runs = _repeated(ask, answering.backbone, sizes.seconds)
            firsts, wholes = zip(*runs, strict=True)
            first, whole = median(firsts), median(wholes)
            ours, last[way] = ours or (first, whole), (count, whole)
            times = [ms(first), ms(min(firsts)), ms(max(firsts)), ms(whole)]
            yield [name, count, way, *times, first / ours[0], whole / ours[1], len(runs)]


def _repeated(way: Callable[[], Opened], backbone: Backbone, seconds: float) -> list[tuple[float, float]]:
    """At least once, and for so long, ten times at most. What is short is warmed up before."""
    first = timed(way, backbone)
    runs = [first] if first[1] > 1 else []
    until = time.perf_counter() + seconds
    while not runs or (time.perf_counter() + runs[-1][1] < until and len(runs) < 10):
        runs.append(timed(way, backbone))
    return runs


def frames(quick: bool) -> list[Table]:
    """The table."""
    return [measured(QUICK if quick else FULL)]


def measured(sizes: Sizes) -> Table:
    """The table at these sizes."""
    torch.set_num_threads(1)
    found, described = [], []
    for name in sizes.models:
        answering = Answering(name)
        described.append(answering.described)
        found += list(rows(name, answering, sizes))
    return Table(
        title="Answering from carriers, and from frames",
        columns=COLUMNS,
        rows=found,
        notes=(
            *described,
            f"One thread, float32, answers of {TOKENS} tokens, medians. Chosen: as many carriers as an answer looks at.",
            "Dense: the frames through the vision tower and all their tokens through the language model, at each question.",
            f"ReKV-style: all visual tokens kept, those of the {RETRIEVED} frames most like the question fetched and attended to.",
            "Positions beyond what the model was trained for, where a way needs them.",
            "Target at 256 frames: dense at least 20 times the first token's time, and 3 times the whole answer's.",
        ),
    )
