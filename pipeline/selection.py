"""Which carriers an answer looks at when there are more than it can: the newest, the most relevant, the rest evenly spread."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core import CarrierKey

RELEVANT = 0.5  # a score from here on says: it shows what is asked about
TOP, LATEST = 0.5, 0.75  # of the budget: filled so far by the highest scores, then by the latest that are relevant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """A camera's carriers in order of time, and how probably each shows what is asked about (None: nobody can say)."""

    at_ms: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None


def probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of logits."""
    odds: NDArray[np.float32] = np.exp(np.minimum(-logits, np.float32(80)))  # beyond that, float32 overflows
    return np.reciprocal(1 + odds)


def joined(at_ms: NDArray[np.int64], known: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores of carriers, given those of the `known` times; 0 where there is none. Both times ascend."""
    if np.array_equal(at_ms, known):
        return scores
    place = np.minimum(np.searchsorted(known, at_ms), len(known) - 1)
    return np.where(known[place] == at_ms, scores[place], np.float32(0))


def select(candidates: Mapping[str, Candidates], budget: int) -> list[CarrierKey]:
    """At most `budget` carriers in order of time.

    The newest of each camera are always among them, since questions mean now unless they say otherwise. Of what is relevant
    both the surest and the latest are taken, the surest with what came just before and after; what is left goes evenly over
    the time, so that the answer also knows what is around.
    """
    if sum(len(c.at_ms) for c in candidates.values()) <= budget:
        return sorted((CarrierKey(camera_id=n, at_ms=int(at)) for n, c in candidates.items() for at in c.at_ms), key=_in_time)
    chosen: dict[CarrierKey, None] = {}
    _take(chosen, _newest(candidates), budget)
    _take(chosen, _surest(candidates, budget), int(budget * TOP))
    _take(chosen, _latest(candidates, budget), int(budget * LATEST))
    _take(chosen, _spread(candidates, tuple(chosen), budget - len(chosen)), budget)
    return sorted(chosen, key=_in_time)


def _in_time(key: CarrierKey) -> tuple[int, str]:
    return key.at_ms, key.camera_id


def _take(chosen: dict[CarrierKey, None], keys: Iterable[CarrierKey], limit: int) -> None:
    for key in keys:
        if len(chosen) >= limit:
            return
        chosen.setdefault(key)


def _newest(candidates: Mapping[str, Candidates]) -> Iterator[CarrierKey]:
    """Of each camera one, the newest of all first."""
    newest = [CarrierKey(camera_id=name, at_ms=int(c.at_ms[-1])) for name, c in candidates.items() if len(c.at_ms)]
    yield from sorted(newest, key=_in_time, reverse=True)


def _surest(candidates: Mapping[str, Candidates], most: int) -> Iterator[CarrierKey]:
    """By score over all cameras, each with its neighbours in time; without those that nothing is known of."""
    best: list[tuple[float, str, int]] = []
    for name, c in candidates.items():
        if c.scores is not None and len(c.scores):
            top = np.argpartition(c.scores, -min(most, len(c.scores)))[-most:]
            best += [(float(c.scores[i]), name, int(i)) for i in top if c.scores[i] > 0]
    for _, name, i in heapq.nlargest(most, best):
        for near in (i, i - 1, i + 1):
            if 0 <= near < len(candidates[name].at_ms):
                yield CarrierKey(camera_id=name, at_ms=int(candidates[name].at_ms[near]))


def _latest(candidates: Mapping[str, Candidates], most: int) -> Iterator[CarrierKey]:
    """The latest over all cameras that are relevant."""
    latest: list[CarrierKey] = []
    for name, c in candidates.items():
        if c.scores is not None:
            latest += [CarrierKey(camera_id=name, at_ms=int(c.at_ms[i])) for i in np.flatnonzero(c.scores >= RELEVANT)[-most:]]
    yield from sorted(latest, key=_in_time, reverse=True)


def _spread(candidates: Mapping[str, Candidates], chosen: Iterable[CarrierKey], room: int) -> Iterator[CarrierKey]:
    """Evenly over all that is not chosen yet, in order of time and then of camera."""
    taken: defaultdict[str, list[int]] = defaultdict(list)
    for key in chosen:
        taken[key.camera_id].append(key.at_ms)
    names = sorted(candidates)
    rest = [np.delete(candidates[name].at_ms, np.searchsorted(candidates[name].at_ms, taken[name])) for name in names]
    order = np.concatenate([at_ms * len(names) + camera for camera, at_ms in enumerate(rest)])  # one number for both: no sort of millions
    places = np.linspace(0, len(order) - 1, min(room, len(order))).round().astype(int)
    for at_ms, camera in zip(*np.divmod(np.partition(order, places)[places], len(names)), strict=True):
        yield CarrierKey(camera_id=names[camera], at_ms=int(at_ms))
