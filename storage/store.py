"""The long-term memory of carriers and pictures in Redis. The prefill plane puts, the decode plane reads."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from pipeline.core import Carrier, CarrierKey, CarrierWrite, Claim, Gap, Kept, TimeRange
from storage import captured, deletion, guard, keys, losses, repeats, shelf
from storage.alike import Reader
from storage.cache import Cache
from storage.carriers import Carriers
from storage.codec import FINGERPRINT, Codec
from storage.connect import connect, reaching
from storage.errors import BadCarrier, BadReason, BadValue
from storage.vectors import Hour, Vectors

DAY_S = 86_400
FORGET_MS = 30_000  # by then everybody has heard that a camera was removed


class _Encoded(NamedTuple):
    """A write, its value, and its vector as what to append to which string."""

    write: CarrierWrite
    value: bytes
    vector: tuple[str, bytes] | None


class CarrierStore:
    """The carriers of one model. Safe to share between threads. Raises StoreUnavailable, after a bounded wait.

    `head` names what makes the vectors that relevance is scored on; without it none are kept or found.
    `misses` counts by reason the values that could not be used: "missing" or a BadReason. `keep_bytes` bounds a camera (see `tidy`);
    `cache_bytes` is what carriers, vectors and times that were read may take in this process.
    """

    def __init__(
        self,
        url: str,
        fingerprint: str,
        *,
        head: str | None = None,
        ttl_s: float = 14 * DAY_S,
        picture_ttl_s: float = 14 * DAY_S,
        keep_bytes: int | None = None,
        cache_bytes: int = 0,
        codec: Codec | None = None,
        timeout_s: float = 1.0,
    ) -> None:
        if not all(FINGERPRINT.fullmatch(digest) for digest in (fingerprint, head) if digest is not None):
            raise BadCarrier(BadReason.FINGERPRINT)
        self.misses: Counter[str] = Counter()
        self._codec = codec or Codec()
        self.cache = Cache(cache_bytes) if cache_bytes else None
        self._fingerprint = fingerprint
        reader = Reader(fingerprint)
        self._carriers = Carriers(fingerprint=fingerprint, reader=reader, seal=self._codec.seal, misses=self.misses, cache=self.cache)
        self._vectors: Vectors | None = None
        if head is not None:
            self._vectors = Vectors(fingerprint=fingerprint, head=head, seal=self._codec.seal, misses=self.misses, cache=self.cache)
        self._ttl_ms = int(ttl_s * 1000)
        self._picture_ttl_ms = int(picture_ttl_s * 1000)
        self._keep_bytes = keep_bytes
        self._claims: dict[str, Claim] = {}
        self._client = connect(url, timeout_s)

    def claim(self, camera_id: str, grant: int = 0) -> Claim:
        """The right to write a camera, taken from whoever had it. Raises Superseded when it was ours, or another has a later grant."""
        with reaching():
            self._claims[camera_id] = guard.claim(self._client, camera_id, grant, self._claims.get(camera_id), self._ttl_ms)
        return self._claims[camera_id]

    def put(self, writes: Sequence[CarrierWrite]) -> None:
        """Keeps carriers, each camera's in one transaction; a repeated put changes nothing that is read.

        A camera's writes come in the order of time, under one claim. Raises BadCarrier, before anything is written, for one that cannot
        be kept, and Superseded when the claim no longer holds. What lies in a span that was deleted meanwhile is left out.
        """
        cameras: defaultdict[str, list[_Encoded]] = defaultdict(list)
        for write in writes:
            if write.carrier.fingerprint != self._fingerprint:
                raise BadCarrier(BadReason.FINGERPRINT)
            cameras[write.carrier.key.camera_id].append(_Encoded(write, self._codec.encode(write.carrier), self._record(write.carrier)))
        for camera_id, encoded in cameras.items():
            self._put_camera(camera_id, encoded)

    def _record(self, carrier: Carrier) -> tuple[str, bytes] | None:
        return None if self._vectors is None or carrier.vector is None else self._vectors.record(carrier.key, carrier.vector)

    def _put_camera(self, camera_id: str, encoded: list[_Encoded]) -> None:
        index, pictures = keys.index(camera_id, self._fingerprint), keys.pictures(camera_id)
        last = encoded[-1].write
        with reaching(), self._client.pipeline(transaction=True) as pipe:
            deleted = guard.admit(pipe, camera_id, last.claim)
            kept = [each for each in encoded if deleted is None or each.write.carrier.key.at_ms not in deleted]
            if not kept:
                return
            first = self._repeated(pipe, [each.write for each in kept])
            pipe.multi()
            hours: defaultdict[str, bytes] = defaultdict(bytes)
            for write, value, vector in kept:
                at_ms = write.carrier.key.at_ms
                if at_ms in first:
                    self._put_repeat(pipe, write.carrier.key, first[at_ms])
                else:
                    self._put_whole(pipe, write, value)
                pipe.zadd(index, {str(at_ms): at_ms})
                pipe.zadd(pictures, {str(at_ms): at_ms})
                if vector:
                    hours[vector[0]] += vector[1]
            for name, records in hours.items():
                pipe.append(name, records)
                pipe.pexpire(name, self._ttl_ms)
            pipe.pexpire(index, self._ttl_ms)  # outlives every value in it, and not for ever
            pipe.pexpire(pictures, self._picture_ttl_ms)
            pipe.set(keys.live(camera_id, self._fingerprint), msgpack.packb(last.live), px=self._ttl_ms)
            if last.claim:
                guard.renew(pipe, camera_id, last.claim, self._ttl_ms)
            pipe.execute()

    def _repeated(self, pipe: Any, writes: Sequence[CarrierWrite]) -> dict[int, int]:
        """Which of them (at_ms) repeat what is kept, or is about to be, and when that is from; all others are kept whole."""
        found: dict[int, int] = {}
        there: dict[int, bool] = {}
        for write in writes:
            key, of_ms = write.carrier.key, write.repeats
            if of_ms is not None and of_ms not in there:
                of = replace(key, at_ms=of_ms)
                there[of_ms] = pipe.exists(self._name(of), keys.picture(of.camera_id, of_ms)) == 2
            if of_ms is not None and there[of_ms]:
                found[key.at_ms] = of_ms
            else:
                there[key.at_ms] = True
        return found

    def _put_whole(self, pipe: Any, write: CarrierWrite, value: bytes) -> None:
        picture = keys.picture(write.carrier.key.camera_id, write.carrier.key.at_ms)
        pipe.set(self._name(write.carrier.key), value, nx=True, px=self._ttl_ms)
        pipe.set(picture, self._codec.seal.seal(write.picture, picture), nx=True, px=self._picture_ttl_ms)

    def _put_repeat(self, pipe: Any, key: CarrierKey, of_ms: int) -> None:
        """It expires with what it repeats."""
        for name, ttl_ms in ((self._name(key), self._ttl_ms), (keys.picture(key.camera_id, key.at_ms), self._picture_ttl_ms)):
            left_ms = max(1, ttl_ms - (key.at_ms - of_ms))
            pipe.set(name, self._codec.seal.seal(repeats.encode(of_ms, name), name), nx=True, px=left_ms)

    def captured(self, camera_id: str, when: TimeRange | None = None) -> NDArray[np.int64]:
        """When the camera's carriers were captured (at_ms), ascending; without the oldest that are gone."""
        carriers = shelf.carriers(camera_id, self._fingerprint)
        with reaching():
            return carriers.kept(self._client, captured.read(self._client, carriers.index, when, self.cache))

    def times(self, camera_id: str, when: TimeRange | None = None) -> list[int]:
        """`captured` as a list."""
        return [int(at_ms) for at_ms in self.captured(camera_id, when)]

    def newest(self, camera_id: str) -> int | None:
        """When the camera's newest carrier was captured."""
        with reaching():
            members = self._client.zrange(keys.index(camera_id, self._fingerprint), -1, -1)
        return int(members[0]) if members else None

    def span(self, camera_id: str) -> TimeRange | None:
        """From the oldest to the newest carrier in the index."""
        index = keys.index(camera_id, self._fingerprint)
        with reaching():
            ends = [*self._client.zrange(index, 0, 0), *self._client.zrange(index, -1, -1)]
        return TimeRange(start_ms=int(ends[0]), end_ms=int(ends[1])) if len(ends) == 2 else None

    def get(self, keys: Sequence[CarrierKey]) -> list[Carrier | None]:
        """The carriers, in the order of the keys; one that is gone or odd in any way is None, and counted in `misses`."""
        cameras: defaultdict[str, dict[int, CarrierKey]] = defaultdict(dict)
        for key in keys:
            cameras[key.camera_id][key.at_ms] = key
        found: dict[str, dict[int, Carrier | None]] = {}
        for camera_id, own in cameras.items():
            with reaching():
                found[camera_id] = self._carriers.read(self._client, camera_id, list(own.values()))
        return [found[key.camera_id][key.at_ms] for key in keys]

    def vectors(self, camera_id: str, when: TimeRange) -> Iterator[tuple[NDArray[np.int64], Hour]]:
        """Of a camera's carriers in a span, an hour at a time: their times (at_ms), ascending, and their vectors.

        A carrier may be without one, and a vector without its carrier.
        """
        if self._vectors is None:
            return iter(())
        with reaching():
            return self._vectors.read(self._client, camera_id, when)

    def live(self, camera_id: str) -> list[Carrier]:
        """The camera's live memory in the order of time, for a prefiller that starts again; misses are left out.

        The span of the last reaches to the newest moment that was kept.
        """
        with reaching():
            times = deletion.live_times(self._client.get(keys.live(camera_id, self._fingerprint)))
        if times is None:
            self.misses[BadReason.MALFORMED] += 1
        found = self.get([CarrierKey(camera_id=camera_id, at_ms=at_ms) for at_ms in times or []])
        carriers = [carrier for carrier in found if carrier]
        if carriers and (newest := self.newest(camera_id)) and newest > carriers[-1].span.end_ms:
            carriers[-1] = replace(carriers[-1], span=replace(carriers[-1].span, end_ms=newest))
        return carriers

    def picture(self, camera_id: str, at_ms: int) -> bytes | None:
        """The JPEG of exactly that time, or of the one that it repeats; one that does not open is None, and counted in `misses`."""
        try:
            found = self._picture(camera_id, at_ms)
            of_ms = found and repeats.decode(found, keys.picture(camera_id, at_ms), at_ms)
            return self._picture(camera_id, of_ms) if of_ms else found
        except BadValue as error:
            self.misses[error.reason] += 1
            return None

    def _picture(self, camera_id: str, at_ms: int) -> bytes | None:
        name = keys.picture(camera_id, at_ms)
        with reaching():
            value: bytes | None = self._client.get(name)
        return None if value is None else self._codec.seal.open(value, name)

    def newest_picture(self, camera_id: str) -> tuple[int, bytes] | None:
        """The camera's newest JPEG and its at_ms, whatever model looked at it."""
        with reaching():
            members = self._client.zrange(keys.pictures(camera_id), -1, -1)
        picture = self.picture(camera_id, int(members[0])) if members else None
        return (int(members[0]), picture) if picture is not None else None

    def note_loss(self, gap: Gap) -> None:
        """Remembers that something was seen and could not be kept."""
        with reaching():
            losses.note(self._client, gap, self._ttl_ms)

    def losses(self, camera_id: str, when: TimeRange | None = None) -> list[Gap]:
        """What was noted as lost of a time."""
        with reaching():
            return losses.of(self._client, camera_id, when)

    def tidy(self, camera_id: str) -> None:
        """Drops from the indexes what has expired, and the oldest values until carriers take half of `keep_bytes`, and pictures too;
        the hours of vectors go with the last of their carriers.

        The prefill plane calls this now and then. Carriers of other models are not counted; they go by age.
        """
        before = self.span(camera_id)
        with reaching():
            for each in (shelf.carriers(camera_id, self._fingerprint), shelf.pictures(camera_id)):
                each.trim(self._client)
                count, taken = each.held(self._client)
                if self._keep_bytes is not None and taken > (room := self._keep_bytes // 2):
                    each.drop_oldest(self._client, count - count * room // taken)
            if self._vectors:
                self._vectors.drop(self._client, camera_id, before, self.span(camera_id))

    def kept(self, camera_id: str) -> Kept:
        """What is remembered of a camera, in numbers."""
        with reaching():
            carriers, carrier_bytes = shelf.carriers(camera_id, self._fingerprint).held(self._client)
            pictures, picture_bytes = shelf.pictures(camera_id).held(self._client)
        return Kept(
            camera_id=camera_id,
            span=self.span(camera_id),
            carriers=carriers,
            carrier_bytes=carrier_bytes,
            pictures=pictures,
            picture_bytes=picture_bytes,
            gaps=tuple(self.losses(camera_id)),
        )

    def forget(self, camera_id: str) -> int:
        """Deletes every trace of a camera, by whatever model, and says how many carriers and pictures that were.

        Remove the camera first: what is seen of it within half a minute is taken for still under way, and not kept.
        """
        return self.delete(camera_id, TimeRange(start_ms=0, end_ms=guard.now_ms() + FORGET_MS))

    def delete(self, camera_id: str, span: TimeRange) -> int:
        """Deletes every trace of a span of a camera, by whatever model, and says how many carriers and pictures that were."""
        with reaching():
            return deletion.delete(self._client, camera_id, span)

    def ping(self) -> None:
        """Returns when the store answers."""
        with reaching():
            self._client.ping()

    def close(self) -> None:
        """Lets the connections go."""
        self._client.close()

    def _name(self, key: CarrierKey) -> str:
        return keys.carrier(key, self._fingerprint)
