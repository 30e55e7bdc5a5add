"""What an answer looks at, chosen as the product chooses it (`pipeline.answerer`), without a store."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from model.videoscan import VideoScan
from pipeline.core import Carrier
from pipeline.selection import Candidates, probability, select


def looked_at(scan: VideoScan, question: str, carriers: Sequence[Carrier], budget: int | None = None) -> list[Carrier]:
    """Of carriers in order of time those that fit the budget (None: the model's), by relevance where the model can tell."""
    budget = budget or scan.budget
    if len(carriers) <= budget:
        return list(carriers)
    sought = scan.sought(question)
    vectors = None if sought is None else scan.vectors(carriers)
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for i, carrier in enumerate(carriers):
        rows[carrier.key.camera_id].append(i)
    candidates = {}
    for camera, own in rows.items():
        at_ms = np.array([carriers[i].key.at_ms for i in own], np.int64)
        scores = None if sought is None or vectors is None else probability(at_ms, vectors[own] @ sought)
        candidates[camera] = Candidates(at_ms=at_ms, scores=scores)
    chosen = set(select(candidates, budget, scan.recent))
    return [carrier for carrier in carriers if carrier.key in chosen]
