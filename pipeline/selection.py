"""Which carriers an answer looks at when there are more than it can: the newest, and what is relevant or else an even spread."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.core import CarrierKey

NEAR_MS = 2_000
RELEVANT = 0.0  # a score from here on says: it shows what is asked about
NEWEST, TOP, LATEST = 0.25, 0.5, 0.75  # of the budget: filled so far by the newest, what was found or scores highest, the latest relevant
PASSAGES, REACH = 8, 8  # that are looked at closer: half of them the surest; each so many carriers before and after
PASSAGE = 2 * REACH + 1
SPARSE = 10  # times as many as the budget: of these an even spread misses what is there for seconds, and may be taken for it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """A camera's carriers in order of time, and how probably each shows what is asked about, as a logit.

    -inf for one of which nothing is known; None where nobody can say.
    """

    at_ms: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Carriers of one camera that follow one another, and the best score among them."""

    keys: tuple[CarrierKey, ...]
    score: float


def steadied(at_ms: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """How probably each of some moments, ascending, shows what is asked about, as a logit.

    The mean of its own and of the likelier of the moments right before and after: so what is there for seconds stands out from what one
    picture is mistaken for. Not of more of them: what is brief would drown. Alone in its time, a moment is what it is.
    """
    near = np.diff(at_ms) <= NEAR_MS
    second = np.full_like(logits, -np.inf)
    np.copyto(second[1:], logits[:-1], where=near)
    np.maximum(second[:-1], logits[1:], out=second[:-1], where=near)
    np.copyto(second, logits, where=np.isneginf(second))
    second += logits  # in place: of millions, fresh memory costs more than the arithmetic
    second *= np.float32(0.5)
    return second


def joined(at_ms: NDArray[np.int64], known: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores of carriers, given those of the `known` times; -inf where there is none. Both times ascend."""
    if np.array_equal(at_ms, known):
        return scores
    place = np.minimum(np.searchsorted(known, at_ms), len(known) - 1)
    return np.where(known[place] == at_ms, scores[place], np.float32(-np.inf))


def select(
    candidates: Mapping[str, Candidates], budget: int, recent: int = 1, found: Sequence[CarrierKey] | None = None
) -> list[CarrierKey]:
    """At most `budget` carriers in order of time.

    The newest of each camera is always among them, since questions mean now unless they say otherwise, and as many as `recent` of each
    where that leaves room. Then what was `found` by looking closer, and nothing else: what is around might be taken for it. Where nothing
    was, the rest goes evenly over the time, unless that would be `SPARSE`: then there are more of the newest. Where nobody can look
    closer (None), of what is relevant both the surest and the latest come first, the surest with what came just before and after.
    """
    count = sum(len(c.at_ms) for c in candidates.values())
    if count <= budget:
        return sorted((CarrierKey(camera_id=n, at_ms=int(at)) for n, c in candidates.items() for at in c.at_ms), key=_in_time)
    chosen: dict[CarrierKey, None] = {}
    _take(chosen, islice(_newest(candidates, recent), max(len(candidates), int(budget * NEWEST))), budget)
    if found is None:
        _take(chosen, _surest(candidates, budget), int(budget * TOP))
        _take(chosen, _latest(candidates, budget), int(budget * LATEST))
    if found:
        _take(chosen, found, int(budget * TOP))
    elif found is not None and count > SPARSE * budget:
        _take(chosen, _newest(candidates, budget), int(budget * NEWEST))
    else:
        _take(chosen, _spread(candidates, tuple(chosen), budget - len(chosen)), budget)
    return sorted(chosen, key=_in_time)


def passages(candidates: Mapping[str, Candidates], count: int = PASSAGES, reach: int = REACH) -> list[Passage]:
    """What is worth a closer look: up to `count` passages around relevant moments, the surest and the latest, none of them twice."""
    chosen: dict[str, list[int]] = {name: [] for name in candidates}
    most = count * (2 * reach + 1)  # if all the best stand side by side
    for peaks, limit in ((_best(candidates, most), count // 2), (_relevant(candidates, most), count)):
        for name, i in peaks:
            if sum(map(len, chosen.values())) < limit and all(abs(i - other) > 2 * reach for other in chosen[name]):
                chosen[name].append(i)
    return [_passage(name, c, slice(max(0, i - reach), i + reach + 1)) for name, c in candidates.items() for i in chosen[name]]


def _passage(camera_id: str, candidates: Candidates, part: slice) -> Passage:
    assert candidates.scores is not None  # else nothing of it is relevant
    keys = tuple(CarrierKey(camera_id=camera_id, at_ms=int(at)) for at in candidates.at_ms[part])
    return Passage(keys=keys, score=float(candidates.scores[part].max()))


def _in_time(key: CarrierKey) -> tuple[int, str]:
    return key.at_ms, key.camera_id


def _take(chosen: dict[CarrierKey, None], keys: Iterable[CarrierKey], limit: int) -> None:
    for key in keys:
        if len(chosen) >= limit:
            return
        chosen.setdefault(key)


def _newest(candidates: Mapping[str, Candidates], recent: int) -> Iterator[CarrierKey]:
    """Of each camera one, the newest of all first; then of each the one before, and so on."""
    for back in range(1, recent + 1):
        newest = [CarrierKey(camera_id=name, at_ms=int(c.at_ms[-back])) for name, c in candidates.items() if len(c.at_ms) >= back]
        yield from sorted(newest, key=_in_time, reverse=True)


def _surest(candidates: Mapping[str, Candidates], most: int) -> Iterator[CarrierKey]:
    """By score over all cameras, each with its neighbours in time; without those that nothing is known of."""
    for name, i in _best(candidates, most):
        for near in (i, i - 1, i + 1):
            if 0 <= near < len(candidates[name].at_ms):
                yield CarrierKey(camera_id=name, at_ms=int(candidates[name].at_ms[near]))


def _best(candidates: Mapping[str, Candidates], most: int) -> list[tuple[str, int]]:
    """Camera and place of the highest scores over all cameras; without those that nothing is known of."""
    best: list[tuple[float, str, int]] = []
    least = np.finfo(np.float32).min  # what it takes to be among the best so far
    for name, c in candidates.items():
        if c.scores is not None:
            top = np.flatnonzero(c.scores >= least)
            if len(top) > most:
                top = top[np.argpartition(c.scores[top], -most)[-most:]]
            best = heapq.nlargest(most, best + [(float(c.scores[i]), name, int(i)) for i in top])
            least = np.float32(best[-1][0]) if len(best) == most else least
    return [(name, i) for _, name, i in best]


def _latest(candidates: Mapping[str, Candidates], most: int) -> Iterator[CarrierKey]:
    """The latest over all cameras that are relevant."""
    for name, i in _relevant(candidates, most):
        yield CarrierKey(camera_id=name, at_ms=int(candidates[name].at_ms[i]))


def _relevant(candidates: Mapping[str, Candidates], most: int) -> list[tuple[str, int]]:
    """Camera and place of what is relevant, the latest over all cameras first."""
    latest: list[tuple[int, str, int]] = []
    for name, c in candidates.items():
        if c.scores is not None:
            latest += [(int(c.at_ms[i]), name, int(i)) for i in np.flatnonzero(c.scores >= RELEVANT)[-most:]]
    return [(name, i) for _, name, i in sorted(latest, reverse=True)]


def _spread(candidates: Mapping[str, Candidates], chosen: Iterable[CarrierKey], room: int) -> Iterator[CarrierKey]:
    """Evenly over all that is not chosen yet, in order of time and then of camera."""
    taken: defaultdict[str, list[int]] = defaultdict(list)
    for key in chosen:
        taken[key.camera_id].append(key.at_ms)
    names = sorted(candidates)
    rest = [(candidates[name].at_ms, np.sort(np.array(taken[name], np.int64))) for name in names]
    count = sum(len(at_ms) - len(gone) for at_ms, gone in rest)
    places = np.linspace(0, count - 1, min(room, count)).round().astype(int)
    for at_ms, camera in zip(*np.divmod(_at(rest, places), len(rest)), strict=True):
        yield CarrierKey(camera_id=names[camera], at_ms=int(at_ms))


def _at(rest: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """What stands in some places of all times together, in order of time and then of camera, as time x cameras + camera.

    `rest` has of each camera the times and which of them do not count, both ascending. By bisection: partitioning ten millions takes
    most of a second.
    """
    ends = [int(end) for at_ms, _ in rest for end in at_ms[:: max(1, len(at_ms) - 1)]]
    least, most = (np.full(len(places), end * len(rest), np.int64) for end in (min(ends, default=0), max(ends, default=0) + 1))
    while (least < most).any():
        middle = (least + most) // 2
        upto = [(middle - camera) // len(rest) for camera in range(len(rest))]
        before = sum(np.searchsorted(at, x, "right") - np.searchsorted(gone, x, "right") for (at, gone), x in zip(rest, upto, strict=True))
        most, least = np.where(before > places, middle, most), np.where(before > places, least, middle + 1)
    return least
