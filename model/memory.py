"""The bounded live memory of one camera (arXiv 2503.09387, 3.3): at most M carriers, and which goes for a new one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.core import Carrier, LivePolicy, TimeRange

Times = NDArray[np.int64]
Likeness = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Which of too many carriers goes, by its rank, and whether the one behind it takes on its time.

    `goes` is told the times of all [n] in milliseconds and the cosine of each one's embedding to the next one's [n - 1]. It never
    names the newest. As it is told nothing else, a memory recalled from the store goes on as if it had never stopped.
    """

    goes: Callable[[Times, Likeness], int]
    merges: bool = False


def _oldest(times: Times, likeness: Likeness) -> int:
    return 0


def _most_alike(times: Times, likeness: Likeness) -> int:
    """The older of the most alike neighbours."""
    return int(np.argmax(likeness))


def _most_crowded(times: Times, likeness: Likeness) -> int:
    """The one that leaves the smallest gap; the first stays too, so that all that was seen is spanned."""
    return 1 + int(np.argmin(times[2:] - times[:-2])) if len(times) > 2 else 0


def _cheapest_merger(times: Times, likeness: Likeness) -> int:
    """The older of the neighbours least unlike, times how far apart they are: a carrier that stands for long is not given up for little."""
    return int(np.argmin(np.maximum(1 - likeness, 0) * np.diff(times)))


POLICIES: dict[LivePolicy, Policy] = {
    "paper": Policy(goes=_most_alike),
    "recency": Policy(goes=_oldest),
    "uniform": Policy(goes=_most_crowded),
    "merge": Policy(goes=_cheapest_merger, merges=True),
}
"""The live policies by name.

"merge" keeps the newer's keys and values as they are, and not a mean of both. They are what a pass has computed and what the store
has, bit for bit: so what a frame sees is what training showed, and the same after a restart. A mean is the key of no frame, depends
on the order of mergers, and would have to be stored beside what it was made from.
"""


class LiveMemory:
    """The carriers that the next frame of a camera attends to, in order of time. Not thread-safe."""

    def __init__(self, limit: int, carriers: Sequence[Carrier] = (), policy: LivePolicy = "paper") -> None:
        if limit < 1:
            raise ValueError(f"a live memory holds at least one carrier, not {limit}")
        self.limit = limit
        self._policy = POLICIES[policy]
        self._carriers: list[Carrier] = []
        self._likeness: list[float] = []  # of each carrier to its successor
        for carrier in carriers:
            self.add(carrier)

    def __len__(self) -> int:
        return len(self._carriers)

    @property
    def carriers(self) -> tuple[Carrier, ...]:
        """Oldest first."""
        return tuple(self._carriers)

    def add(self, carrier: Carrier) -> Carrier | None:
        """Append a carrier; returns the one that had to go, if any. Raises ValueError if it is not newer than the last."""
        if self._carriers:
            last = self._carriers[-1]
            if carrier.key.at_ms <= last.key.at_ms:
                raise ValueError(f"{carrier.key} is not newer than {last.key}")
            self._likeness.append(_cosine(last, carrier))
        self._carriers.append(carrier)
        return self._evict() if len(self._carriers) > self.limit else None

    def _evict(self) -> Carrier:
        times = np.array([carrier.key.at_ms for carrier in self._carriers])
        goes = self._policy.goes(times, np.array(self._likeness))
        evicted = self._carriers.pop(goes)
        self._likeness.pop(goes)
        if goes > 0:
            self._likeness[goes - 1] = _cosine(self._carriers[goes - 1], self._carriers[goes])
        if self._policy.merges:
            heir = self._carriers[goes]
            span = TimeRange(start_ms=evicted.span.start_ms, end_ms=max(evicted.span.end_ms, heir.span.end_ms))
            self._carriers[goes] = replace(heir, span=span)
        return evicted


def _cosine(a: Carrier, b: Carrier) -> float:
    x, y = a.embedding.astype(np.float64), b.embedding.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-12))
