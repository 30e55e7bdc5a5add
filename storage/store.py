"""The long-term memory of carriers and pictures in Redis. The prefill plane puts, the decode plane reads."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from pipeline.core import Carrier, CarrierKey, CarrierWrite, Claim, Gap, Kept, TimeRange
from storage import captured, deletion, guard, keys, losses, shelf
from storage.cache import Cache
from storage.codec import FINGERPRINT, Codec
from storage.connect import connect, reaching
from storage.errors import BadCarrier, BadReason, BadValue
from storage.vectors import Vectors

DAY_S = 86_400
GET_BATCH = 32  # keys per MGET: one reply with everything would be slower, and grow the server
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
        self._vectors: Vectors | None = None
        if head is not None:
            self._vectors = Vectors(fingerprint=fingerprint, head=head, seal=self._codec.seal, misses=self.misses, cache=self.cache)
        self._ttl_ms = int(ttl_s * 1000)
        self._picture_ttl_ms = int(picture_ttl_s * 1000)
        self._keep_bytes = keep_bytes
        self._claims: dict[str, Claim] = {}
        self._client = connect(url, timeout_s)

    def claim(self, camera_id: str) -> Claim:
        """The right to write a camera, taken from whoever had it. Raises Superseded when it was ours, and a newer prefiller has it."""
        with reaching():
            self._claims[camera_id] = guard.claim(self._client, camera_id, self._claims.get(camera_id), self._ttl_ms)
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
            vector = None if self._vectors is None or write.vector is None else self._vectors.record(write.carrier.key, write.vector)
            cameras[write.carrier.key.camera_id].append(_Encoded(write, self._codec.encode(write.carrier), vector))
        for camera_id, encoded in cameras.items():
            self._put_camera(camera_id, encoded)

    def _put_camera(self, camera_id: str, encoded: list[_Encoded]) -> None:
        index, pictures = keys.index(camera_id, self._fingerprint), keys.pictures(camera_id)
        last = encoded[-1].write
        with reaching(), self._client.pipeline(transaction=True) as pipe:
            deleted = guard.admit(pipe, camera_id, last.claim)
            kept = [each for each in encoded if deleted is None or each.write.carrier.key.at_ms not in deleted]
            if not kept:
                return
            pipe.multi()
            hours: defaultdict[str, bytes] = defaultdict(bytes)
            for write, value, vector in kept:
                at_ms = write.carrier.key.at_ms
                pipe.set(self._name(write.carrier.key), value, nx=True, px=self._ttl_ms)
                picture = keys.picture(camera_id, at_ms)
                pipe.set(picture, self._codec.seal.seal(write.picture, picture), nx=True, px=self._picture_ttl_ms)
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
        cameras: defaultdict[str, list[CarrierKey]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            cameras[key.camera_id].append(key)
        found: dict[CarrierKey, Carrier | None] = {}
        for camera_id, own in cameras.items():
            found |= self._get_camera(camera_id, own)
        return [found[key] for key in keys]

    def _get_camera(self, camera_id: str, wanted: Sequence[CarrierKey]) -> dict[CarrierKey, Carrier | None]:
        if self.cache is None:
            return self._fetch(wanted)
        with reaching():
            generation = guard.generation(self._client, camera_id)  # before the values: what is deleted in between stays out
        cached = {key: self.cache.get(key, generation) for key in wanted}
        fetched = self._fetch([key for key, carrier in cached.items() if carrier is None])
        for carrier in fetched.values():
            if carrier is not None:
                self.cache.put(carrier.key, generation, carrier, carrier.embedding.nbytes + carrier.kv.nbytes)
        return cached | fetched

    def _fetch(self, wanted: Sequence[CarrierKey]) -> dict[CarrierKey, Carrier | None]:
        found: dict[CarrierKey, Carrier | None] = {}
        for start in range(0, len(wanted), GET_BATCH):
            batch = wanted[start : start + GET_BATCH]
            with reaching():
                values = self._client.mget([self._name(key) for key in batch])
            found |= {key: self._open(key, value) for key, value in zip(batch, values, strict=True)}
        return found

    def vectors(self, camera_id: str, when: TimeRange) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of a camera's carriers in a span, an hour at a time: their times (at_ms), ascending, and their vectors [n, VECTOR].

        A carrier may be without one, and a vector without its carrier.
        """
        if self._vectors is None:
            return iter(())
        with reaching():
            return self._vectors.read(self._client, camera_id, when)

    def live(self, camera_id: str) -> list[Carrier]:
        """The camera's live memory in the order of time, for a prefiller that starts again; misses are left out."""
        with reaching():
            times = deletion.live_times(self._client.get(keys.live(camera_id, self._fingerprint)))
        if times is None:
            self.misses[BadReason.MALFORMED] += 1
        found = self.get([CarrierKey(camera_id=camera_id, at_ms=at_ms) for at_ms in times or []])
        return [carrier for carrier in found if carrier]

    def picture(self, camera_id: str, at_ms: int) -> bytes | None:
        """The JPEG of exactly that time; one that does not open is None, and counted in `misses`."""
        name = keys.picture(camera_id, at_ms)
        with reaching():
            value: bytes | None = self._client.get(name)
        try:
            return None if value is None else self._codec.seal.open(value, name)
        except BadValue as error:
            self.misses[error.reason] += 1
            return None

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

    def _open(self, key: CarrierKey, value: bytes | None) -> Carrier | None:
        if value is None:
            self.misses["missing"] += 1
            return None
        try:
            return self._codec.decode(value, key, self._fingerprint)
        except BadValue as error:
            self.misses[error.reason] += 1
            return None
