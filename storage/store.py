"""The long-term memory of carriers and pictures in Redis. The prefill plane puts, the decode plane reads."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgpack
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from pipeline.core import Carrier, CarrierKey, CarrierWrite, StoreUnavailable, TimeRange
from storage import keys
from storage.codec import FINGERPRINT, Codec
from storage.errors import BadCarrier, BadReason, BadValue

DAY_S = 86_400
GET_BATCH = 32  # keys per MGET: one reply with everything would be slower, and grow the server
TRIM_BATCH = 256
SCAN_BATCH = 1000
FORGET_MS = 600_000
LIVE_LIMIT = 1 << 16  # carriers in a live memory


def connect(url: str, timeout_s: float = 1.0) -> Any:
    """A redis.Redis none of whose calls waits long: about twice `timeout_s`, with its one retry.

    Any, because redis-py types every reply as text or bytes or more, and here it is always bytes.
    """
    retry = Retry(ExponentialBackoff(base=0.05, cap=0.2), retries=1)
    # RESP2: common to Redis 7, Valkey and the disk-backed stores, and no slower for large values.
    return redis.Redis.from_url(url, protocol=2, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry)


@contextmanager
def reaching() -> Iterator[None]:
    """Turns whatever Redis refuses or fails to do into StoreUnavailable. The client's messages hold no password."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"the store cannot be used now: {error}") from error


class CarrierStore:
    """The carriers of one model. Safe to share between threads. Raises StoreUnavailable, after a bounded wait.

    `misses` counts by reason the values that could not be used: "missing" or a BadReason.
    """

    def __init__(
        self,
        url: str,
        fingerprint: str,
        *,
        ttl_s: float = 14 * DAY_S,
        picture_ttl_s: float = 14 * DAY_S,
        timeout_s: float = 1.0,
        codec: Codec | None = None,
    ) -> None:
        if not FINGERPRINT.fullmatch(fingerprint):
            raise BadCarrier(BadReason.FINGERPRINT)
        self.misses: Counter[str] = Counter()
        self._codec = codec or Codec()
        self._fingerprint = fingerprint
        self._ttl_ms = int(ttl_s * 1000)
        self._picture_ttl_ms = int(picture_ttl_s * 1000)
        self._client = connect(url, timeout_s)

    def put(self, writes: Sequence[CarrierWrite]) -> None:
        """Keeps carriers, each camera's in one transaction; a repeated put changes nothing.

        A camera's writes come in the order of time. Raises BadCarrier, before anything is written, for one that cannot be kept.
        """
        cameras: defaultdict[str, list[tuple[CarrierWrite, bytes]]] = defaultdict(list)
        for write in writes:
            if write.carrier.fingerprint != self._fingerprint:
                raise BadCarrier(BadReason.FINGERPRINT)
            cameras[write.carrier.key.camera_id].append((write, self._codec.encode(write.carrier)))
        for camera_id, sealed in cameras.items():
            self._put_camera(camera_id, sealed)

    def _put_camera(self, camera_id: str, sealed: list[tuple[CarrierWrite, bytes]]) -> None:
        index, live, seen = keys.index(camera_id, self._fingerprint), keys.live(camera_id, self._fingerprint), keys.seen(camera_id)
        with reaching(), self._client.pipeline(transaction=True) as pipe:
            for write, value in sealed:
                at_ms = write.carrier.key.at_ms
                pipe.set(self._name(write.carrier.key), value, nx=True, px=self._ttl_ms)
                picture = keys.picture(camera_id, at_ms)
                pipe.set(picture, self._codec.seal.seal(write.picture, picture), nx=True, px=self._picture_ttl_ms)
                pipe.zadd(index, {str(at_ms): at_ms})
                pipe.zadd(seen, {str(at_ms): at_ms})
            pipe.zremrangebyrank(seen, 0, -2)  # the newest stays
            pipe.pexpire(seen, self._picture_ttl_ms)
            pipe.pexpire(index, self._ttl_ms)  # outlives every value in it, and not for ever
            pipe.set(live, msgpack.packb(sealed[-1][0].live), px=self._ttl_ms)
            pipe.exists(keys.forgotten(camera_id))
            *_, forgotten = pipe.execute()
        if forgotten:  # these frames were under way when it was
            self._sweep(camera_id)

    def times(self, camera_id: str, when: TimeRange | None = None) -> list[int]:
        """When the camera's carriers were captured (at_ms), ascending."""
        start, end = (when.start_ms, when.end_ms) if when else ("-inf", "+inf")
        index = keys.index(camera_id, self._fingerprint)
        with reaching():
            self._trim(camera_id)
            return [int(member) for member in self._client.zrangebyscore(index, start, end)]

    def newest(self, camera_id: str) -> int | None:
        """When the camera's newest carrier was captured."""
        with reaching():
            members = self._client.zrange(keys.index(camera_id, self._fingerprint), -1, -1)
        return int(members[0]) if members else None

    def span(self, camera_id: str) -> TimeRange | None:
        """From the oldest to the newest carrier that is remembered."""
        index = keys.index(camera_id, self._fingerprint)
        with reaching():
            self._trim(camera_id)
            ends = [*self._client.zrange(index, 0, 0), *self._client.zrange(index, -1, -1)]
        return TimeRange(start_ms=int(ends[0]), end_ms=int(ends[1])) if len(ends) == 2 else None

    def get(self, keys: Sequence[CarrierKey]) -> list[Carrier | None]:
        """The carriers, in the order of the keys; one that is gone or odd in any way is None, and counted in `misses`."""
        carriers: list[Carrier | None] = []
        for start in range(0, len(keys), GET_BATCH):
            batch = keys[start : start + GET_BATCH]
            with reaching():
                values = self._client.mget([self._name(key) for key in batch])
            carriers += [self._open(key, value) for key, value in zip(batch, values, strict=True)]
        return carriers

    def live(self, camera_id: str) -> list[Carrier]:
        """The camera's live memory in the order of time, for a prefiller that starts again; misses are left out."""
        with reaching():
            value = self._client.get(keys.live(camera_id, self._fingerprint))
        found = self.get([CarrierKey(camera_id=camera_id, at_ms=at_ms) for at_ms in self._live_times(value)])
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
            members = self._client.zrange(keys.seen(camera_id), -1, -1)
        picture = self.picture(camera_id, int(members[0])) if members else None
        return (int(members[0]), picture) if picture is not None else None

    def forget(self, camera_id: str) -> int:
        """Deletes every trace of a camera, by whatever model, and says how many keys that were.

        Remove the camera first. Frames of it that are still under way are deleted as they arrive, for ten minutes or until the
        camera is added again.
        """
        with reaching():
            self._client.set(keys.forgotten(camera_id), b"", px=FORGET_MS)
        return self._sweep(camera_id)

    def _sweep(self, camera_id: str) -> int:
        removed = 0
        with reaching():
            doomed: list[Any] = [keys.status(camera_id)]
            for key in self._client.scan_iter(match=keys.everything_of(camera_id), count=SCAN_BATCH):
                doomed.append(key)
                if len(doomed) == SCAN_BATCH:
                    removed += self._client.unlink(*doomed)
                    doomed.clear()
            if doomed:
                removed += self._client.unlink(*doomed)
            self._client.srem(keys.REPORTING, camera_id)
        return removed

    def ping(self) -> None:
        """Returns when the store answers."""
        with reaching():
            self._client.ping()

    def close(self) -> None:
        """Lets the connections go."""
        self._client.close()

    def _name(self, key: CarrierKey) -> str:
        return keys.carrier(key, self._fingerprint)

    def _trim(self, camera_id: str) -> None:
        """Drops the oldest index entries whose values are gone: asked of Redis, since no clock knows of evictions."""
        index = keys.index(camera_id, self._fingerprint)
        while oldest := self._client.zrange(index, 0, TRIM_BATCH - 1):
            with self._client.pipeline(transaction=False) as pipe:
                for member in oldest:
                    pipe.exists(self._name(CarrierKey(camera_id=camera_id, at_ms=int(member))))
                gone = [*pipe.execute(), 1].index(1)
            if gone:
                self._client.zrem(index, *oldest[:gone])
            if gone < len(oldest):
                return

    def _open(self, key: CarrierKey, value: bytes | None) -> Carrier | None:
        if value is None:
            self.misses["missing"] += 1
            return None
        try:
            return self._codec.decode(value, key, self._fingerprint)
        except BadValue as error:
            self.misses[error.reason] += 1
            return None

    def _live_times(self, value: bytes | None) -> list[int]:
        try:
            times = msgpack.unpackb(value, max_array_len=LIVE_LIMIT, max_ext_len=0) if value else []
        except (ValueError, msgpack.UnpackException):
            times = None
        if type(times) is not list or any(type(at_ms) is not int for at_ms in times):
            self.misses[BadReason.MALFORMED] += 1
            return []
        return sorted(set(times))
