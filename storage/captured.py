"""When a camera's carriers are from: its time index, of which a process that was asked before reads only what is new."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import TimeRange
from storage.cache import Cache

SEEN = True  # a stamp that never ends: deletions show in the count

Times = NDArray[np.int64]


def read(client: Any, index: str, when: TimeRange | None, cache: Cache | None) -> Times:
    """The times in the index, ascending."""
    known: Times | None = cache.get(index, SEEN) if cache else None
    if known is None and when is not None:
        return _parsed(client.zrangebyscore(index, when.start_ms, when.end_ms))
    times = _grown(client, index, known)
    if cache:
        cache.put(index, SEEN, times, times.nbytes)
    return times if when is None else times[slice(*np.searchsorted(times, (when.start_ms, when.end_ms + 1)))]


def _grown(client: Any, index: str, known: Times | None) -> Times:
    """What was known, without what has gone from its beginning and with what came after its end, if that is all there is now."""
    if known is not None and len(known):
        with client.pipeline(transaction=False) as pipe:
            pipe.zrange(index, 0, 0)
            pipe.zrangebyscore(index, f"({known[-1]}", "+inf")
            pipe.zcard(index)
            oldest, newer, count = pipe.execute()
        times = np.concatenate((known[np.searchsorted(known, _parsed(oldest)[0]) :] if oldest else known[:0], _parsed(newer)))
        if len(times) == count:
            return times
    return _parsed(client.zrangebyscore(index, "-inf", "+inf"))


def _parsed(members: Sequence[bytes]) -> Times:
    return np.array(members, "S").astype(np.int64) if members else np.zeros(0, np.int64)
