"""The short vectors that relevance is scored on: of every hour of a camera one string of records (docs/format.md)."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis.exceptions import NoPermissionError

from pipeline.core import VECTOR, CarrierKey, TimeRange
from storage import guard, keys
from storage.cache import Cache
from storage.errors import BadCarrier, BadReason, BadValue
from storage.seal import Seal

HOUR_MS = 3_600_000
MAX_BYTES = 16 << 20  # of one string; an hour at 30 frames a second takes 4.8 MB, sealed 9.3
MAX_HOURS = 10_000  # looked for at a time, the newest: more than a year
GET_BATCH = 16  # strings per MGET, 2.5 MB at a frame a second
TOP = 127

AT = np.dtype("<i8")
RECORD = np.dtype([("at_ms", AT), ("scale", "<f4"), ("codes", "i1", (VECTOR,))])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hour:
    """Of one hour of a camera: when [n], ascending, and the vectors [n, VECTOR], each its codes times its scale."""

    at_ms: NDArray[np.int64]
    scales: NDArray[np.float32]
    codes: NDArray[np.int8]

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        return self.at_ms.nbytes + self.scales.nbytes + self.codes.nbytes

    def __matmul__(self, sought: NDArray[np.float32]) -> NDArray[np.float32]:
        """The product [n] of each vector and one [VECTOR]; by its codes, since to spread all vectors out takes as long as this."""
        product: NDArray[np.float32] = (self.codes.astype(np.float32) @ sought) * self.scales
        return product

    def within(self, when: TimeRange) -> tuple[NDArray[np.int64], "Hour"]:
        """The times of a span, and its vectors."""
        part = slice(*np.searchsorted(self.at_ms, (when.start_ms, when.end_ms + 1)))
        own = Hour(at_ms=self.at_ms[part], scales=self.scales[part], codes=self.codes[part])
        return own.at_ms, own


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Those of one model's carriers by one head. What is odd is counted in `misses` and left out: its carrier counts as without one."""

    fingerprint: str
    head: str  # digest of what made them: vectors of another mean nothing to its questions
    seal: Seal
    misses: Counter[str]
    cache: Cache | None

    def record(self, key: CarrierKey, vector: NDArray[Any]) -> tuple[str, bytes]:
        """What to append to which string. Raises BadCarrier for what is no vector of finite numbers."""
        if vector.shape != (VECTOR,):
            raise BadCarrier(BadReason.SHAPE)
        if not np.isfinite(vector).all():
            raise BadCarrier(BadReason.NUMBERS)
        scale = np.float32(np.abs(vector).max() / TOP)
        codes = np.clip(np.rint(vector / (scale or 1)), -TOP, TOP).astype(np.int8)
        record = np.array([(key.at_ms, scale, codes)], RECORD).tobytes()
        name = self._name(key.camera_id, key.at_ms // HOUR_MS)
        return name, record[: AT.itemsize] + self.seal.seal(record[AT.itemsize :], _sealed_name(name, key.at_ms))

    def read(self, client: Any, camera_id: str, when: TimeRange) -> Iterator[tuple[NDArray[np.int64], Hour]]:
        """Times, ascending, and vectors of a span, an hour at a time."""
        stamp = guard.generation(client, camera_id) if self.cache else None  # first: what is deleted from here on is not kept
        hours = range(when.start_ms // HOUR_MS, when.end_ms // HOUR_MS + 1)[-MAX_HOURS:]
        names = {self._name(camera_id, hour): hour for hour in hours}
        lengths = self._lengths(client, list(names))
        found: dict[str, Hour] = {}
        if self.cache and stamp:
            found = {name: hour for name, length in lengths.items() if (hour := self.cache.get(name, (stamp, length)))}
        missing = [name for name in lengths if name not in found]
        for start in range(0, len(missing), GET_BATCH):
            batch = missing[start : start + GET_BATCH]
            for name, value in zip(batch, client.mget(batch), strict=True):
                found[name] = self._decode(value or b"", name, names[name])
                if self.cache and stamp:
                    self.cache.put(name, (stamp, len(value or b"")), found[name], found[name].nbytes)
        return (found[name].within(when) for name in lengths)

    def drop(self, client: Any, camera_id: str, before: TimeRange | None, after: TimeRange | None) -> None:
        """Deletes the hours that were in the index and are not any more: it spanned `before`, and now spans `after`."""
        if before is None:
            return
        end_ms = after.start_ms if after else before.end_ms + HOUR_MS
        gone = [self._name(camera_id, hour) for hour in range(before.start_ms // HOUR_MS, end_ms // HOUR_MS)[-MAX_HOURS:]]
        if gone:
            client.unlink(*gone)

    def _lengths(self, client: Any, names: list[str]) -> Mapping[str, int]:
        """Of those strings that are there."""
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.strlen(name)
            answers = dict(zip(names, pipe.execute(raise_on_error=False), strict=True))
        for answer in answers.values():
            if isinstance(answer, NoPermissionError):  # nothing odd, but a server that does not know what we need
                raise answer
        odd = [name for name, length in answers.items() if not isinstance(length, int) or length > MAX_BYTES]
        self._miss(BadReason.LENGTH, len(odd))
        return {name: length for name, length in answers.items() if length and name not in odd}

    def _decode(self, value: bytes, name: str, hour: int) -> Hour:
        if len(value) % self._stride or len(value) > MAX_BYTES:
            self._miss(BadReason.LENGTH)
            value = b""
        table = np.frombuffer(self._opened(value, name) if self.seal.overhead else value, RECORD)
        sound = (table["at_ms"] // HOUR_MS == hour) & np.isfinite(table["scale"])
        self._miss(BadReason.MALFORMED, int((~sound).sum()))
        at_ms, first = np.unique(table["at_ms"][sound], return_index=True)  # one that a repeated put appended again is the same
        table = table[sound][first]
        return Hour(at_ms=at_ms, scales=table["scale"].copy(), codes=table["codes"].copy())

    def _opened(self, value: bytes, name: str) -> bytes:
        """The records without their seals."""
        opened = []
        for start in range(0, len(value), self._stride):
            at_ms, sealed = value[start : start + AT.itemsize], value[start + AT.itemsize : start + self._stride]
            try:
                opened.append(at_ms + self.seal.open(sealed, _sealed_name(name, int.from_bytes(at_ms, "little", signed=True))))
            except BadValue as error:
                self._miss(error.reason)
        return b"".join(opened)

    @property
    def _stride(self) -> int:
        return RECORD.itemsize + self.seal.overhead

    def _name(self, camera_id: str, hour: int) -> str:
        return keys.vectors(camera_id, self.fingerprint, self.head, self._stride, hour)

    def _miss(self, reason: BadReason, count: int = 1) -> None:
        if count:
            self.misses[reason] += count


def delete(client: Any, name: bytes, span: TimeRange) -> None:
    """Deletes a span from one string, by whatever model and head, sealed or not; what is appended meanwhile is heeded."""
    if (packed := keys.packed(name)) is None:
        client.unlink(name)  # nobody can say what is in it
        return
    stride, hour = packed
    own = TimeRange(start_ms=hour * HOUR_MS, end_ms=(hour + 1) * HOUR_MS - 1)
    if own.start_ms in span and own.end_ms in span:
        client.unlink(name)
    elif own.overlaps(span):
        client.transaction(lambda pipe: _rewrite(pipe, name, stride, hour, span), name)


def _rewrite(pipe: Any, name: bytes, stride: int, hour: int, span: TimeRange) -> None:
    value = pipe.get(name) or b""
    records = np.frombuffer(value, np.dtype([("at_ms", AT), ("rest", f"V{stride - AT.itemsize}")]), len(value) // stride)
    stays = (records["at_ms"] // HOUR_MS == hour) & ((records["at_ms"] < span.start_ms) | (records["at_ms"] > span.end_ms))
    pipe.multi()
    if stays.any():
        pipe.set(name, records[stays].tobytes(), keepttl=True)
    else:
        pipe.unlink(name)


def _sealed_name(name: str, at_ms: int) -> str:
    return f"{name}:{at_ms}"
