"""From a question to an answer: choose what to look at, look, and say on what grounds."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.batching import Decoded, Said
from pipeline.core import Answer, Carrier, CarrierKey, Evidence, Gap, Mode, NoMemory, Question, TimeRange, UnknownCamera, clock, named
from pipeline.grounding import NOT_SEEN, ground, moments, pointed, speakable
from pipeline.rules import Judgement, Standing
from pipeline.selection import PASSAGE, Candidates, joined, passages, select, steadied

HOLE_MS = 10_000  # no frame for this long is a gap worth naming
GAPS = 5  # named in an answer at most
RECENT = 8  # carriers that a rule looks at
CERTAIN = 1e-6  # no look is surer than this short of 0 or 1
LOOK = 0.5  # of its logit counts: it errs about much of what relevance errs about


Speak = Callable[[str, Sequence[Carrier]], AsyncGenerator[Said, None]]  # a question over carriers, to what is said, token by token


class Vectors(Protocol):
    """What the relevance of some carriers is scored on, a vector [VECTOR] each: an array of them, or what multiplies like one."""

    def __matmul__(self, sought: NDArray[np.float32], /) -> NDArray[np.float32]:
        """The product [n] of each and what a question looks for [VECTOR]."""


class Memory(Protocol):
    """What is remembered; reads only."""

    def captured(self, camera_id: str, when: TimeRange | None) -> NDArray[np.int64]:
        """When a camera's carriers are from, ascending."""

    def vectors(self, camera_id: str, when: TimeRange) -> Iterable[tuple[NDArray[np.int64], Vectors]]:
        """In pieces, times ascending and what the relevance of their carriers is scored on, for as many as have one."""

    def get(self, keys: Sequence[CarrierKey]) -> list[Carrier | None]:
        """The carriers, None for each that cannot be had."""

    def losses(self, camera_id: str, when: TimeRange | None) -> list[Gap]:
        """What was seen and could not be kept."""


class Decoder(Protocol):
    """The second phase of a model."""

    fingerprint: str
    mode: Mode
    looks: bool  # taught to look at what shows the answer, and elsewhere when nothing does

    def sought(self, question: str) -> NDArray[np.float32] | None:
        """What a question looks for [VECTOR]: its product with a carrier's vector is the logit of being there; None if it cannot tell."""

    def shown(self, question: str, sets: Sequence[Sequence[Carrier]]) -> Sequence[float]:
        """How far each set shows what is asked about, from 0 to 1, each by itself; of a model that was taught where to look."""

    def decode(self, question: str, carriers: Sequence[Carrier]) -> Decoded:
        """Answer in words."""

    def judge(self, questions: Sequence[str], sets: Sequence[Sequence[Carrier]]) -> Sequence[Decoded]:
        """Yes or no to each question over its set of carriers, together."""


class Answerer:
    """Answers from the memory alone. Thread-safe if the decoder and the memory are."""

    def __init__(
        self,
        decoder: Decoder,
        memory: Memory,
        cameras: Callable[[], Sequence[str]],
        *,
        budget: int = 128,
        recent: int = 1,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._memory = memory
        self._cameras = cameras
        self._budget, self._recent = budget, recent  # carriers that one answer looks at; the newest of each camera among them
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)

    def answer(self, question: Question) -> Answer:
        """Raises UnknownCamera for a camera that is not there, and NoMemory when nothing is remembered of what is asked."""
        looked = self._look(question)
        return looked.answer(self._decoder.decode(question.text, looked.carriers), self._decoder)

    async def stream(self, question: Question, speak: Speak) -> AsyncGenerator[str | Answer, None]:
        """The same, asked together with others: the words as they come, and at last the answer, whose text replaces them.

        Its words continue one another, and hold no `<where>` and no `<when>`. Close it (`aclose`) to hang up. Raises what `answer`
        and `speak` raise.
        """
        looked = await asyncio.to_thread(self._look, question)
        shown, first_ms = "", None
        async with aclosing(speak(question.text, looked.carriers)) as saying:
            async for said in saying:
                first_ms = looked.spent_ms() if first_ms is None else first_ms
                if said.ended:
                    yield looked.answer(said, self._decoder, first_ms)
                    return
                words = looked.grounded(speakable(said.text), said.attention)[0]
                if words.startswith(shown) and words != shown:
                    yield words[len(shown) :]
                    shown = words

    def _look(self, question: Question) -> "_Looked":
        """Choose what to look at, and fetch it. Raises UnknownCamera and NoMemory."""
        began = time.perf_counter()
        cameras = self._meant(question)
        times = {camera: self._memory.captured(camera, question.when) for camera in cameras}
        losses = [gap for camera in cameras for gap in self._memory.losses(camera, question.when)]
        wanted = self.wanted(question.text, times)
        carriers = self._fetch(wanted)
        if not carriers:
            raise NoMemory(f"nothing is remembered of {', '.join(cameras) or 'any camera'}{_span_words(question.when)}")
        now_ms = self._now_ms()
        missing = (*unread(wanted, carriers), *gaps(times, question.when, now_ms, losses))
        return _Looked(began=began, cameras=tuple(cameras), carriers=carriers, gaps=missing, now_ms=now_ms)

    def judge(self, standing: Sequence[Standing]) -> list[Judgement | None]:
        """How probable each condition is on its camera's newest carriers, all together; None where nothing is remembered."""
        newest = {camera_id: self._newest(camera_id) for camera_id in {one.camera_id for one in standing}}
        asked = [one for one in standing if newest[one.camera_id]]
        questions = [f"Is it true now that {one.condition.strip().rstrip('.?!')}?" for one in asked]
        decoded = self._decoder.judge(questions, [newest[one.camera_id] for one in asked]) if asked else []
        told = {one: _judgement(newest[one.camera_id][-1], each.probability) for one, each in zip(asked, decoded, strict=True)}
        return [told.get(one) for one in standing]

    def _newest(self, camera_id: str) -> list[Carrier]:
        times = self._memory.captured(camera_id, None)[-RECENT:].tolist()
        return self._fetch([CarrierKey(camera_id=camera_id, at_ms=at) for at in times])

    def _meant(self, question: Question) -> list[str]:
        """The cameras given, or those named in the text, or all."""
        known = list(self._cameras())
        for camera in question.cameras:
            if camera not in known:
                raise UnknownCamera(f"there is no camera {camera!r}; there are: {', '.join(known) or 'none'}")
        return list(question.cameras) or named(question.text, known) or known

    def wanted(self, question: str, times: Mapping[str, NDArray[np.int64]]) -> list[CarrierKey]:
        """What to look at: all, or by relevance, and by a closer look at what is relevant."""
        candidates = self.candidates(question, times)
        return select(candidates, self._budget, self._recent, self._found(question, candidates))

    def candidates(self, question: str, times: Mapping[str, NDArray[np.int64]]) -> dict[str, Candidates]:
        """What could be looked at; with its relevance where there is more than that, and it can be scored."""
        candidates = {camera: Candidates(at_ms=each) for camera, each in times.items()}
        if sum(map(len, times.values())) > self._budget and (sought := self._decoder.sought(question)) is not None:
            return {camera: self._scored(camera, each, sought) for camera, each in candidates.items()}
        return candidates

    def _found(self, question: str, candidates: Mapping[str, Candidates]) -> list[CarrierKey] | None:
        """Of relevant passages those that on a closer look show what is asked about, the surest and latest first; None if nobody can tell.

        Of thousands of moments some always look like it. The model takes one of them for it when it sees all of these at once, and
        seldom when it sees each by itself. Relevance is a witness and the look half another, whose odds are multiplied. The more there is
        to choose among, the more they must say.
        """
        around = passages(candidates) if self._decoder.looks else []
        have = {carrier.key: carrier for carrier in self._fetch([key for passage in around for key in passage.keys])}
        sets = [(passage.score, carriers) for passage in around if (carriers := [have[key] for key in passage.keys if key in have])]
        if not sets:
            return None
        shown = self._decoder.shown(question, [carriers for _, carriers in sets])
        found = [(score + LOOK * logit(share), carriers) for (score, carriers), share in zip(sets, shown, strict=True)]
        bound = enough(sum(len(each.at_ms) for each in candidates.values()))
        sure = [each for each in found if each[0] >= bound]
        sure.sort(key=lambda each: (round(each[0]), each[1][-1].key.at_ms), reverse=True)
        return [carrier.key for _, carriers in sure for carrier in carriers]

    def _scored(self, camera: str, carriers: Candidates, sought: NDArray[np.float32]) -> Candidates:
        """The same with their scores; nothing is known of a carrier without a vector, nor can anybody say of a camera without any."""
        if not len(carriers.at_ms):
            return carriers
        when = TimeRange(start_ms=int(carriers.at_ms[0]), end_ms=int(carriers.at_ms[-1]))
        pieces = [(at_ms, vectors @ sought) for at_ms, vectors in self._memory.vectors(camera, when) if len(at_ms)]
        if not pieces:
            return carriers
        at_ms, logits = (np.concatenate(each) for each in zip(*pieces, strict=True))
        return replace(carriers, scores=joined(carriers.at_ms, at_ms, steadied(at_ms, logits)))

    def _fetch(self, keys: Sequence[CarrierKey]) -> list[Carrier]:
        return [carrier for carrier in self._memory.get(keys) if carrier is not None]


def enough(carriers: int) -> float:
    """The logit that outweighs how unlikely it is of any one passage of so many carriers, where one of them shows it as likely as not."""
    return math.log(max(1.0, carriers / PASSAGE))


def logit(probability: float) -> float:
    """Never infinite: no look settles a thing by itself."""
    within = min(max(probability, CERTAIN), 1 - CERTAIN)
    return math.log(within / (1 - within))


def _judgement(last: Carrier, probability: float) -> Judgement:
    """Of a condition, on carriers of which this is the last."""
    here = Evidence(camera_id=last.key.camera_id, at_ms=last.key.at_ms, span=last.span, score=1.0)
    return Judgement(probability=probability, at_ms=last.key.at_ms, evidence=(here,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What a question looks at, and what of it could not be had."""

    began: float  # by the performance counter
    cameras: tuple[str, ...]
    carriers: Sequence[Carrier]
    gaps: tuple[Gap, ...]
    now_ms: int

    def spent_ms(self) -> float:
        """Since the question came."""
        return (time.perf_counter() - self.began) * 1000

    def grounded(self, text: str, attention: NDArray[Any]) -> tuple[str, tuple[Evidence, ...]]:
        """Words that a model said, with what they point at filled in, and their evidence."""
        evidence = pointed(text, moments([carrier.key for carrier in self.carriers], attention))
        return ground(text, evidence, self.now_ms), evidence

    def answer(self, decoded: Decoded, by: Decoder, first_ms: float | None = None) -> Answer:
        """What came of it."""
        text, evidence = self.grounded(decoded.text, decoded.attention)
        took_ms = self.spent_ms()
        return Answer(
            text=text,
            probability=decoded.probability,
            evidence=() if text == NOT_SEEN else evidence,
            gaps=self.gaps,
            cameras=self.cameras,
            carriers=len(self.carriers),
            model=by.fingerprint,
            mode=by.mode,
            took_ms=took_ms,
            first_ms=took_ms if first_ms is None else first_ms,
        )


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
