"""From a question to an answer: choose what to look at, look, and say on what grounds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core import Answer, Carrier, CarrierKey, Evidence, Gap, NoMemory, Question, TimeRange, UnknownCamera, clock, named
from pipeline.grounding import NOT_SEEN, ground, moments
from pipeline.rules import Judgement

HOLE_MS = 10_000  # no frame for this long is a gap worth naming
GAPS = 5  # named in an answer at most
RECENT = 8  # carriers that a rule looks at


class Memory(Protocol):
    """What is remembered; reads only."""

    def times(self, camera_id: str, when: TimeRange | None) -> list[int]:
        """When a camera's carriers are from, ascending."""

    def get(self, keys: Sequence[CarrierKey]) -> list[Carrier | None]:
        """The carriers, None for each that cannot be had."""

    def losses(self, camera_id: str, when: TimeRange | None) -> list[Gap]:
        """What was seen and could not be kept."""


class Decoded(Protocol):
    """What a model said, how surely, and where it looked."""

    @property
    def text(self) -> str:
        """In the model's words."""

    @property
    def probability(self) -> float:
        """Of those words, or of yes."""

    @property
    def attention(self) -> NDArray[Any]:
        """Paid to each carrier."""


class Decoder(Protocol):
    """The second phase of a model."""

    fingerprint: str

    def decode(self, question: str, carriers: Sequence[Carrier]) -> Decoded:
        """Answer in words."""

    def judge(self, question: str, carriers: Sequence[Carrier]) -> Decoded:
        """Yes or no."""


class Answerer:
    """Answers from the memory alone. Thread-safe if the decoder and the memory are."""

    def __init__(
        self,
        decoder: Decoder,
        memory: Memory,
        cameras: Callable[[], Sequence[str]],
        *,
        budget: int = 128,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._memory = memory
        self._cameras = cameras
        self._budget = budget  # carriers that one answer looks at
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)

    def answer(self, question: Question) -> Answer:
        """Raises UnknownCamera for a camera that is not there, and NoMemory when nothing is remembered of what is asked."""
        began = time.perf_counter()
        cameras = self._meant(question)
        times = {camera: self._memory.times(camera, question.when) for camera in cameras}
        losses = [gap for camera in cameras for gap in self._memory.losses(camera, question.when)]
        wanted = spread(times, self._budget)
        carriers = self._fetch(wanted)
        if not carriers:
            raise NoMemory(f"nothing is remembered of {', '.join(cameras) or 'any camera'}{_span_words(question.when)}")
        decoded = self._decoder.decode(question.text, carriers)
        evidence = moments([carrier.key for carrier in carriers], decoded.attention)
        now_ms = self._now_ms()
        text = ground(decoded.text, evidence, now_ms)
        return Answer(
            text=text,
            probability=decoded.probability,
            evidence=() if text == NOT_SEEN else evidence,
            gaps=(*unread(wanted, carriers), *gaps(times, question.when, now_ms, losses)),
            cameras=tuple(cameras),
            carriers=len(carriers),
            model=self._decoder.fingerprint,
            took_ms=(time.perf_counter() - began) * 1000,
        )

    def judge(self, condition: str, camera_id: str) -> Judgement:
        """How probable a rule's condition is on a camera's newest carriers. Raises NoMemory if there are none."""
        newest = self._memory.times(camera_id, None)[-RECENT:]
        carriers = self._fetch([CarrierKey(camera_id=camera_id, at_ms=at) for at in newest])
        if not carriers:
            raise NoMemory(f"nothing is remembered of {camera_id}")
        decoded = self._decoder.judge(f"Is it true now that {condition.strip().rstrip('.?!')}?", carriers)
        last = carriers[-1].key
        here = Evidence(camera_id=camera_id, at_ms=last.at_ms, span=carriers[-1].span, score=1.0)
        return Judgement(probability=decoded.probability, at_ms=last.at_ms, evidence=(here,))

    def _meant(self, question: Question) -> list[str]:
        """The cameras given, or those named in the text, or all."""
        known = list(self._cameras())
        for camera in question.cameras:
            if camera not in known:
                raise UnknownCamera(f"there is no camera {camera!r}; there are: {', '.join(known) or 'none'}")
        return list(question.cameras) or named(question.text, known) or known

    def _fetch(self, keys: Sequence[CarrierKey]) -> list[Carrier]:
        return [carrier for carrier in self._memory.get(keys) if carrier is not None]


def spread(times: dict[str, list[int]], budget: int) -> list[CarrierKey]:
    """At most `budget` carriers in order of time: the newest of each camera, and the rest evenly spread."""
    keys = sorted((CarrierKey(camera_id=c, at_ms=at) for c, each in times.items() for at in each), key=lambda k: (k.at_ms, k.camera_id))
    if len(keys) <= budget:
        return keys
    newest = {CarrierKey(camera_id=c, at_ms=each[-1]) for c, each in times.items() if each}
    if len(newest) >= budget:
        return sorted(newest, key=lambda k: (k.at_ms, k.camera_id))[-budget:]
    rest = [key for key in keys if key not in newest]
    chosen = np.linspace(0, len(rest) - 1, budget - len(newest)).round().astype(int)
    return sorted({*newest, *(rest[i] for i in chosen)}, key=lambda k: (k.at_ms, k.camera_id))


def gaps(times: dict[str, list[int]], when: TimeRange | None, now_ms: int | None = None, losses: Sequence[Gap] = ()) -> tuple[Gap, ...]:
    """Times asked about of which a camera has nothing, longest first; what is yet to come is none. No time asked about means until now.

    A loss that lies in such a hole is its reason; any other is a gap of its own.
    """
    ends = [end for end in (when.end_ms if when else None, now_ms) if end is not None]
    begins = [when.start_ms] if when else []
    found, explained = [], set()
    for camera, each in times.items():
        edges = [*begins, *each, *([min(ends)] if ends else [])]
        holes = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b - a > HOLE_MS]
        if not each and ends and not begins:
            holes = [(min(ends), min(ends))]
        for a, b in holes:
            span = TimeRange(start_ms=a, end_ms=b)
            reason = f"nothing from {camera}{_span_words(span)}" if b > a else f"nothing is remembered of {camera}"
            within = [loss for loss in losses if loss.camera_id == camera and a <= loss.span.start_ms and loss.span.end_ms <= b]
            explained.update(within)
            found.append(Gap(camera_id=camera, span=span, reason="; ".join([reason, *(loss.reason for loss in within)])))
    found += [replace(loss, reason=f"{loss.reason}, {loss.camera_id}{_span_words(loss.span)}") for loss in losses if loss not in explained]
    return tuple(sorted(found, key=lambda g: g.span.start_ms - g.span.end_ms)[:GAPS])


def unread(wanted: Sequence[CarrierKey], carriers: Sequence[Carrier]) -> list[Gap]:
    """The moments that an answer should have looked at and could not, one gap a camera."""
    had = {carrier.key for carrier in carriers}
    missing: dict[str, list[CarrierKey]] = {}
    for key in wanted:
        if key not in had:
            missing.setdefault(key.camera_id, []).append(key)
    found = []
    for camera, gone in missing.items():
        span = TimeRange(start_ms=gone[0].at_ms, end_ms=gone[-1].at_ms)
        of = sum(key.camera_id == camera for key in wanted)
        reason = f"{len(gone)} of {of} moments of {camera}{_span_words(span)} are gone or damaged, and were not looked at"
        found.append(Gap(camera_id=camera, span=span, reason=reason))
    return found


def _span_words(when: TimeRange | None) -> str:
    return f" between {clock(when.start_ms)} and {clock(when.end_ms)}" if when else ""
