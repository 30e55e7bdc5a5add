"""Reading carriers: from what was read before, else from Redis; a moment that repeats an earlier one is read as that one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

from pipeline.core import Carrier, CarrierKey, TimeRange
from storage import ahead, guard, keys, repeats
from storage.alike import Reader, Stored
from storage.cache import Cache
from storage.errors import BadReason, BadValue
from storage.seal import Seal

GET_LEAST, GET_MOST = 32, 512  # keys per MGET: one reply with everything would be slower, and grow the server,
GET_BYTES = 1 << 20  # but small values are worth having more of them at a time

Found = dict[int, Carrier | int | None]  # by at_ms: itself, or when the carrier is from that it repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Carriers:
    """Those of one model. What is gone or odd is counted in `misses`, and None."""

    fingerprint: str
    reader: Reader
    seal: Seal
    misses: Counter[str]
    cache: Cache | None

    def read(self, client: Any, camera_id: str, wanted: Sequence[CarrierKey]) -> dict[int, Carrier | None]:
        """Those of one camera, by at_ms. One that repeats has its own key, and the numbers of the carrier that it repeats."""
        stamp = guard.generation(client, camera_id) if self.cache else None  # first: what is deleted from here on stays out
        found = self._find(client, wanted, stamp)
        again = {key: each for key in wanted if isinstance(each := found[key.at_ms], int)}
        first = self._find(client, [CarrierKey(camera_id=camera_id, at_ms=at_ms) for at_ms in dict.fromkeys(again.values())], stamp)
        whole = {at_ms: each for at_ms, each in found.items() if not isinstance(each, int)}
        return whole | {key.at_ms: self._repeated(key, first[of_ms]) for key, of_ms in again.items()}

    def _find(self, client: Any, wanted: Sequence[CarrierKey], stamp: bytes | None) -> Found:
        if self.cache is None:
            return self._fetch(client, wanted)
        found: Found = {key.at_ms: self.cache.get(key, stamp) for key in wanted}
        missing = [key for key in wanted if found[key.at_ms] is None]
        fetched = self._fetch(client, missing)
        for key in missing:
            if (each := fetched[key.at_ms]) is not None:
                self.cache.put(key, stamp, each, each.nbytes if isinstance(each, Carrier) else 0)
        return found | fetched

    def _fetch(self, client: Any, wanted: Sequence[CarrierKey]) -> Found:
        found: Found = {}
        if not wanted:
            return found
        camera_id = wanted[0].camera_id
        own, known = keys.carriers(camera_id, self.fingerprint), self.reader.known(camera_id)
        size = max(GET_LEAST, min(GET_MOST, GET_BYTES // known.size)) if known else GET_LEAST
        batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        names = [[f"{own}{key.at_ms}" for key in batch] for batch in batches]
        for batch, asked, values in zip(batches, names, ahead.mget(client, names), strict=True):
            glances = map(known.read, values, batch) if known and not self.seal.overhead else repeat(None, len(batch))
            for key, name, value, stored in zip(batch, asked, values, glances, strict=True):
                found[key.at_ms] = stored or self._open(key, name, value)
        return found

    def _open(self, key: CarrierKey, name: str, value: bytes | None) -> Carrier | int | None:
        if value is None:
            self.misses["missing"] += 1
            return None
        try:
            opened = self.seal.open(value, name)
            of_ms = repeats.decode(opened, name, key.at_ms)
            return self.reader.decode(opened, key) if of_ms is None else of_ms
        except BadValue as error:
            self.misses[error.reason] += 1
            return None

    def _repeated(self, key: CarrierKey, first: Carrier | int | None) -> Carrier | None:
        if isinstance(first, int):  # nobody writes a repeat of a repeat
            self.misses[BadReason.MALFORMED] += 1
            return None
        if first is None:
            return None
        span = TimeRange(start_ms=first.span.start_ms, end_ms=key.at_ms)
        return first.at(key, span) if isinstance(first, Stored) else replace(first, key=key, span=span)
