"""One kind of value of one camera, with the index of their times: what is there, how much it takes, and how the oldest goes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core import CarrierKey
from storage import keys

CHUNK = 1024  # index entries at a time
SAMPLE = 64  # values that stand for all of a shelf
WAYS = 32  # questions a round trip, in search of the oldest value that is still there


@dataclass(frozen=True, slots=True)
class Shelf:
    """Values expire or are evicted by Redis, oldest first; whoever trims drops the index entries that they leave behind."""

    index: str
    name: Callable[[int], str]  # of the value of a time

    def first_kept(self, client: Any, times: Sequence[int]) -> int:
        """How many of the ascending times come before the first whose value is still there. One question when none does."""
        low, high, probes = 0, len(times), [0]
        while low < high:
            there = self._ask(client, "exists", [times[probe] for probe in probes])
            found = next((place for place, answer in enumerate(there) if answer), None)
            if found is None:
                low = probes[-1] + 1
            else:
                low, high = probes[found - 1] + 1 if found else low, probes[found]
            probes = sorted({low + (high - low) * way // WAYS for way in range(WAYS)})
        return low

    def trim(self, client: Any) -> int:
        """Drops the oldest entries whose values are gone, and says how many."""
        gone = 0
        while oldest := self._oldest(client, CHUNK):
            dropped = self.first_kept(client, oldest)
            if dropped:
                client.zrem(self.index, *oldest[:dropped])
            gone += dropped
            if dropped < len(oldest):
                break
        return gone

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
            with client.pipeline(transaction=True) as pipe:
                pipe.zrem(self.index, *oldest)
                pipe.unlink(*(self.name(at_ms) for at_ms in oldest))
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
