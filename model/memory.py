"""The bounded live memory of one camera (arXiv 2503.09387, 3.3): at most M carriers; of the most alike neighbours the older goes."""

from collections.abc import Sequence

import numpy as np

from pipeline.core import Carrier


class LiveMemory:
    """The carriers that the next frame of a camera attends to, in order of time. Not thread-safe."""

    def __init__(self, limit: int, carriers: Sequence[Carrier] = ()) -> None:
        if limit < 1:
            raise ValueError(f"a live memory holds at least one carrier, not {limit}")
        self.limit = limit
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
        """Drop the older of the two most alike neighbours (the newest stays: it has no successor)."""
        goes = int(np.argmax(self._likeness))
        evicted = self._carriers.pop(goes)
        self._likeness.pop(goes)
        if goes > 0:
            self._likeness[goes - 1] = _cosine(self._carriers[goes - 1], self._carriers[goes])
        return evicted


def _cosine(a: Carrier, b: Carrier) -> float:
    x, y = a.embedding.astype(np.float64), b.embedding.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-12))
