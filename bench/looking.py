"""What an answer looks at, chosen by the product's own code (`pipeline.answerer`), without a store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.videoscan import VideoScan
from pipeline.answerer import Answerer
from pipeline.core import Carrier, CarrierKey, Gap, TimeRange

Numbers = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Remembered:
    """A memory that is at hand: of each camera when its carriers are from and what their relevance is scored on; and how to get one."""

    times: Mapping[str, NDArray[np.int64]]
    scored: Mapping[str, Numbers]
    carrier: Callable[[CarrierKey], Carrier]

    def captured(self, camera_id: str, when: TimeRange | None) -> NDArray[np.int64]:
        """All of it, whenever."""
        return self.times[camera_id]

    def vectors(self, camera_id: str, when: TimeRange) -> Iterator[tuple[NDArray[np.int64], Numbers]]:
        """In one piece."""
        if camera_id in self.scored:
            yield self.times[camera_id], self.scored[camera_id]

    def get(self, keys: Sequence[CarrierKey]) -> list[Carrier | None]:
        """Those of the keys."""
        return [self.carrier(key) for key in keys]

    def losses(self, camera_id: str, when: TimeRange | None) -> list[Gap]:
        """Nothing is lost."""
        return []

    def wanted(self, scan: VideoScan, question: str, budget: int) -> list[CarrierKey]:
        """What the product would look at to answer."""
        return Answerer(scan, self, lambda: list(self.times), budget=budget, recent=scan.recent).wanted(question, self.times)


def vectors(carriers: Sequence[Carrier]) -> Numbers:
    """What the relevance of new carriers is scored on [carriers, VECTOR], by a model that can tell."""
    return np.stack([carrier.vector for carrier in carriers if carrier.vector is not None])


def looked_at(scan: VideoScan, question: str, carriers: Sequence[Carrier], budget: int | None = None) -> list[Carrier]:
    """Of carriers in order of time those that fit the budget (None: the model's), as the product chooses them."""
    budget = budget or scan.budget
    if len(carriers) <= budget:
        return list(carriers)
    own = {camera: [c for c in carriers if c.key.camera_id == camera] for camera in {c.key.camera_id for c in carriers}}
    memory = Remembered(
        times={camera: np.array([c.key.at_ms for c in each], np.int64) for camera, each in own.items()},
        scored={camera: vectors(each) for camera, each in own.items() if each[0].vector is not None},
        carrier={carrier.key: carrier for carrier in carriers}.__getitem__,
    )
    chosen = set(memory.wanted(scan, question, budget))
    return [carrier for carrier in carriers if carrier.key in chosen]
