"""From a question to an answer: choose what to look at, look, and say on what grounds."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core import Answer, Carrier, CarrierKey, Evidence, Gap, NoMemory, Question, TimeRange, UnknownCamera, clock, named
from pipeline.grounding import NOT_SEEN, ground, moments, pointed
from pipeline.rules import Judgement
from pipeline.selection import Candidates, joined, probability, select

HOLE_MS = 10_000  # no frame for this long is a gap worth naming
GAPS = 5  # named in an answer at most
RECENT = 8  # carriers that a rule looks at


class Memory(Protocol):
    """What is remembered; reads only."""

    def captured(self, camera_id: str, when: TimeRange | None) -> NDArray[np.int64]:
        """When a camera's carriers are from, ascending."""

    def vectors(self, camera_id: str, when: TimeRange) -> Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """In pieces, times ascending and what the relevance of their carriers is scored on [n, VECTOR], for as many as have one."""

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

    def sought(self, question: str) -> NDArray[np.float32] | None:
        """What a question looks for [VECTOR]: its product with a carrier's vector is the logit of being there; None if it cannot tell."""

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
        times = {camera: self._memory.captured(camera, question.when) for camera in cameras}
        losses = [gap for camera in cameras for gap in self._memory.losses(camera, question.when)]
        wanted = self.wanted(question.text, times)
        carriers = self._fetch(wanted)
        if not carriers:
            raise NoMemory(f"nothing is remembered of {', '.join(cameras) or 'any camera'}{_span_words(question.when)}")
        decoded = self._decoder.decode(question.text, carriers)
        evidence = pointed(decoded.text, moments([carrier.key for carrier in carriers], decoded.attention))
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
        newest = self._memory.captured(camera_id, None)[-RECENT:].tolist()
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

    def wanted(self, question: str, times: Mapping[str, NDArray[np.int64]]) -> list[CarrierKey]:
        """What to look at; by relevance where it has to be chosen, and can be scored."""
        candidates = {camera: Candidates(at_ms=each) for camera, each in times.items()}
        if sum(map(len, times.values())) > self._budget and (sought := self._decoder.sought(question)) is not None:
            candidates = {camera: self._scored(camera, each, sought) for camera, each in candidates.items()}
        return select(candidates, self._budget)

    def _scored(self, camera: str, carriers: Candidates, sought: NDArray[np.float32]) -> Candidates:
        """The same with their probabilities; 0 for a carrier without a vector, as if there were none for a camera without any."""
        if not len(carriers.at_ms):
            return carriers
        when = TimeRange(start_ms=int(carriers.at_ms[0]), end_ms=int(carriers.at_ms[-1]))
        pieces = [(at_ms, vectors @ sought) for at_ms, vectors in self._memory.vectors(camera, when) if len(at_ms)]
        if not pieces:
            return carriers
        at_ms, logits = (np.concatenate(each) for each in zip(*pieces, strict=True))
        return replace(carriers, scores=joined(carriers.at_ms, at_ms, probability(logits)))

    def _fetch(self, keys: Sequence[CarrierKey]) -> list[Carrier]:
        return [carrier for carrier in self._memory.get(keys) if carrier is not None]


def gaps(
    times: Mapping[str, NDArray[np.int64]], when: TimeRange | None, now_ms: int | None = None, losses: Sequence[Gap] = ()
) -> tuple[Gap, ...]:
    """Times asked about of which a camera has nothing, longest first; what is yet to come is none. No time asked about means until now.

    A loss that lies in such a hole is its reason; any other is a gap of its own.
    """
    ends = [end for end in (when.end_ms if when else None, now_ms) if end is not None]
    begins = [when.start_ms] if when else []
    found, explained = [], set()
    for camera, each in times.items():
        edges = np.concatenate((np.array(begins, np.int64), each, np.array([min(ends)] if ends else [], np.int64)))
        holes = [(int(edges[i]), int(edges[i + 1])) for i in np.flatnonzero(np.diff(edges) > HOLE_MS)]
        if not len(each) and ends and not begins:
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
