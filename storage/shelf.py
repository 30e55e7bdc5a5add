"""One kind of value of one camera, with the index of their times: what is there, how much it takes, and how the oldest goes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import CarrierKey
from storage import keys, repeats

CHUNK = 1024  # index entries at a time
SAMPLE = 64  # values that stand for all of a shelf


@dataclass(frozen=True, slots=True)
class Shelf:
    """Values expire or are evicted by Redis, oldest first; whoever trims drops the index entries that they leave behind."""

    index: str
    name: Callable[[int], str]  # of the value of a time

    def gone(self, client: Any, times: Sequence[int]) -> list[int]:
        """Those of the ascending times whose values are gone, until a chunk of which none is.

        Every one is asked about, since an eviction goes only roughly by age.
        """
        found: list[int] = []
        for start in range(0, len(times), CHUNK):
            chunk = times[start : start + CHUNK]
            there = self._ask(client, "exists", chunk)
            missing = [at_ms for at_ms, answer in zip(chunk, there, strict=True) if not answer]
            if not missing:
                break
            found += missing
        return found

    def kept(self, client: Any, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ascending times without those that are gone. One question when the oldest is there, which is usual."""
        if not len(times) or self._ask(client, "exists", times[:1].tolist())[0]:
            return times
        return times[~np.isin(times, self.gone(client, times.tolist()))]

    def trim(self, client: Any) -> None:
        """Drops the entries whose values are gone, and the repeats of what has gone."""
        self._drop_gone(client)
        self.drop_repeats(client, 0)

    def drop_repeats(self, client: Any, after_ms: int) -> None:
        """Deletes those between a time and the next value that is no repeat: what they repeat is before it."""
        while chunk := [int(each) for each in client.zrangebyscore(self.index, f"({after_ms}", "+inf", 0, SAMPLE)]:
            orphans = list(takewhile(lambda size: size in repeats.SIZES, self._ask(client, "strlen", chunk)))
            if orphans:
                self._drop(client, chunk[: len(orphans)])
            if len(orphans) < len(chunk):
                return

    def _drop_gone(self, client: Any) -> None:
        rank = 0
        while chunk := [int(member) for member in client.zrange(self.index, rank, rank + CHUNK - 1)]:
            gone = self.gone(client, chunk)
            if not gone:
                return
            client.zrem(self.index, *gone)
            rank += len(chunk) - len(gone)

    def held(self, client: Any) -> tuple[int, int]:
        """How many values, and about how many bytes: a counter would drift with every retry and eviction, a sample does not."""
        count = client.zcard(self.index)
        ranks = sorted({count * part // SAMPLE for part in range(SAMPLE)}) if count else []
        with client.pipeline(transaction=False) as pipe:
            for rank in ranks:
                pipe.zrange(self.index, rank, rank)
            sample = [int(found[0]) for found in pipe.execute() if found]
        sizes = [size for size in self._ask(client, "strlen", sample) if size]
        return count, count * sum(sizes) // len(sizes) if sizes else 0

    def drop_oldest(self, client: Any, count: int) -> None:
        """Deletes values and their entries together, so that a reader finds both or neither."""
        for start in range(0, count, CHUNK):
            oldest = self._oldest(client, min(CHUNK, count - start))
            if not oldest:
                return
            self._drop(client, oldest)
        self.drop_repeats(client, 0)

    def _drop(self, client: Any, times: Sequence[int]) -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.zrem(self.index, *times)
            pipe.unlink(*(self.name(at_ms) for at_ms in times))
            pipe.execute()

    def _oldest(self, client: Any, count: int) -> list[int]:
        return [int(member) for member in client.zrange(self.index, 0, count - 1)] if count > 0 else []

    def _ask(self, client: Any, command: str, times: Sequence[int]) -> list[int]:
        """EXISTS or STRLEN of some values, in one round trip."""
        with client.pipeline(transaction=False) as pipe:
            for at_ms in times:
                pipe.execute_command(command, self.name(at_ms))
            answers: list[int] = pipe.execute(raise_on_error=False)
        return [answer if isinstance(answer, int) else 0 for answer in answers]  # 0 for a key of another type


def carriers(camera_id: str, fingerprint: str) -> Shelf:
    """A camera's carriers of one model."""
    return Shelf(keys.index(camera_id, fingerprint), lambda at_ms: keys.carrier(CarrierKey(camera_id=camera_id, at_ms=at_ms), fingerprint))


def pictures(camera_id: str) -> Shelf:
    """A camera's pictures."""
    return Shelf(keys.pictures(camera_id), lambda at_ms: keys.picture(camera_id, at_ms))


def of_index(camera_id: str, index: bytes) -> Shelf:
    """The one with this index."""
    kind = index.decode().split(":")[2:]
    return carriers(camera_id, kind[1]) if kind[0] == "ix" else pictures(camera_id)
