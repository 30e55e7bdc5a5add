"""The vectors that relevance is scored on, against a real Redis: what is put is found, and what is odd is left out and counted."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from carriers import FINGERPRINT, HEAD, eventually, saying, telling, vector, write
from numpy.typing import NDArray

from pipeline.core import VECTOR, TimeRange
from storage import keys
from storage.codec import Codec
from storage.errors import BadCarrier
from storage.seal import OVERHEAD, Seal
from storage.store import CarrierStore
from storage.vectors import HOUR_MS, RECORD, Hour

pytestmark = pytest.mark.redis

OTHER = "bbbb2222"
EVER = TimeRange(start_ms=0, end_ms=10 * HOUR_MS)
SEALED = Codec(seal=Seal([bytes(range(32))]))
T = HOUR_MS - 3000  # six seconds around an hour's end
TIMES = [T + 1000 * i for i in range(6)]


def found(store: CarrierStore, when: TimeRange = EVER, camera_id: str = "dock") -> dict[int, NDArray[np.float32]]:
    pieces = list(store.vectors(camera_id, when))
    assert all((np.diff(at_ms) > 0).all() for at_ms, _ in pieces)
    return {int(at): each for at_ms, vectors in pieces for at, each in zip(at_ms, spread(vectors), strict=True)}


def spread(vectors: Hour) -> NDArray[np.float32]:
    """The vectors themselves [n, VECTOR], each number asked for by itself."""
    return np.stack([vectors @ number for number in np.eye(VECTOR, dtype=np.float32)], axis=-1)


def name(hour: int, head: str = HEAD, more: int = 0) -> str:
    return keys.vectors("dock", FINGERPRINT, head, RECORD.itemsize + more, hour)


@pytest.fixture
def head(redis_url: str) -> Iterator[CarrierStore]:
    """A memory of a model with a head."""
    opened = CarrierStore(redis_url, FINGERPRINT, head=HEAD)
    yield opened
    opened.close()


@pytest.mark.parametrize("codec", [Codec(), SEALED], ids=["in the clear", "sealed"])
def test_what_is_put_is_found_by_the_hour_within_the_span(redis_url: str, codec: Codec) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, head=HEAD, codec=codec)
    store.put([telling(at_ms) for at_ms in TIMES] + [telling(T, "gate")])
    back = found(store)
    assert list(back) == TIMES and list(found(store, camera_id="gate")) == [T] and not found(store, camera_id="roof")
    assert all(np.abs(back[at_ms] - vector(at_ms)).max() <= 0.51 * np.abs(vector(at_ms)).max() / 127 for at_ms in TIMES)
    assert [len(at_ms) for at_ms, _ in store.vectors("dock", EVER)] == [3, 3]
    assert list(found(store, TimeRange(start_ms=TIMES[2], end_ms=TIMES[3]))) == TIMES[2:4]
    assert not store.misses
    store.close()


def test_a_vector_of_zeros_is_one(head: CarrierStore) -> None:
    head.put([saying(telling(T), np.zeros(VECTOR, np.float32))])
    assert not found(head)[T].any()


@pytest.mark.parametrize(("odd", "reason"), [(np.zeros(VECTOR - 1), "shape"), (np.full(VECTOR, np.nan), "numbers")])
def test_what_is_no_vector_is_refused_before_anything_is_written(
    head: CarrierStore, raw: Any, odd: NDArray[np.float32], reason: str
) -> None:
    with pytest.raises(BadCarrier, match=reason):
        head.put([telling(T, "gate"), saying(telling(T), odd)])
    assert not raw.keys()


def test_a_repeated_put_is_found_once_and_writes_without_vectors_leave_none(head: CarrierStore, raw: Any) -> None:
    for _ in range(2):
        head.put([telling(TIMES[0]), write(TIMES[1]), telling(TIMES[2])])
    assert raw.strlen(name(0)) == 4 * RECORD.itemsize
    assert list(found(head)) == [TIMES[0], TIMES[2]] and not head.misses


def test_another_heads_vectors_and_another_models_are_not_found(head: CarrierStore, redis_url: str) -> None:
    for fingerprint, digest in ((FINGERPRINT, OTHER), ("ffffffff", HEAD), (FINGERPRINT, None)):
        store = CarrierStore(redis_url, fingerprint, head=digest)
        store.put([telling(T, fingerprint=fingerprint)])
        assert len(found(store)) == (digest is not None)
        store.close()
    assert not found(head) and not head.misses
    with pytest.raises(BadCarrier, match="fingerprint"):
        CarrierStore(redis_url, FINGERPRINT, head="*")


@pytest.mark.parametrize(
    ("damage", "reason", "left"),
    [
        (lambda raw, name: raw.append(name, b"x"), "length", 3),
        (lambda raw, name: raw.setrange(name, 17 << 20, b"x"), "length", 3),
        (lambda raw, name: (raw.delete(name), raw.lpush(name, "a list")), "length", 3),
        (lambda raw, name: raw.append(name, bytes(7) + b"\x7f" + bytes(RECORD.itemsize - 8)), "malformed", 6),
        (lambda raw, name: raw.setrange(name, 8, b"\x00\x00\x80\x7f"), "malformed", 5),
        (lambda raw, name: raw.copy(name[:-1] + "1", name, replace=True), "malformed", 3),
    ],
    ids=["appended", "huge", "wrong type", "a time of another hour", "an infinite scale", "another hour"],
)
def test_an_odd_hour_is_a_counted_miss_and_the_others_are_found(
    head: CarrierStore, raw: Any, damage: Callable[..., Any], reason: str, left: int
) -> None:
    head.put([telling(at_ms) for at_ms in TIMES])
    damage(raw, name(0))
    assert len(found(head)) == left and set(found(head)) >= set(TIMES[3:])
    assert set(head.misses) == {reason}


def test_a_string_beyond_the_limit_is_not_even_fetched(head: CarrierStore, raw: Any) -> None:
    head.put([telling(T)])
    raw.setrange(name(0), 17 << 20, b"x")
    sent = raw.info("stats")["total_net_output_bytes"]
    assert not found(head) and raw.info("stats")["total_net_output_bytes"] - sent < 1 << 20


def test_sealed_vectors_tell_nothing_and_are_believed_only_at_their_time_and_name(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, head=HEAD, codec=SEALED)
    store.put([telling(at_ms) for at_ms in TIMES])
    kept, stride = raw.get(name(0, more=OVERHEAD)), RECORD.itemsize + OVERHEAD
    assert len(kept) == 3 * stride and not raw.exists(name(0))
    plain = CarrierStore(redis_url, FINGERPRINT, head=HEAD)
    plain.put([telling(at_ms) for at_ms in TIMES])
    codes = np.frombuffer(raw.get(name(0)), RECORD)["codes"]
    assert all(each.tobytes() not in kept for each in codes)
    moved = kept[stride : stride + 8] + kept[8:stride]  # the first's vector at the second's time
    raw.set(name(0, more=OVERHEAD), moved + kept[stride:])
    assert list(found(store)) == TIMES[1:] and store.misses == {"seal": 1}
    with_another_key = CarrierStore(redis_url, FINGERPRINT, head=HEAD, codec=Codec(seal=Seal([bytes(32)])))
    assert not found(with_another_key) and with_another_key.misses == {"sealed": 6}
    for opened in (store, plain, with_another_key):
        opened.close()


@pytest.mark.parametrize("codec", [Codec(), SEALED], ids=["in the clear", "sealed"])
def test_a_deleted_span_is_gone_from_every_string(head: CarrierStore, redis_url: str, raw: Any, codec: Codec) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, head=OTHER, codec=codec, cache_bytes=100_000)
    for each in (head, store):
        each.put([telling(at_ms, claim=each.claim("dock")) for at_ms in [*TIMES, 3 * HOUR_MS]])
    assert len(found(store)) == 7
    lived = raw.pttl(name(0))
    assert head.delete("dock", TimeRange(start_ms=TIMES[1], end_ms=2 * HOUR_MS)) == 10
    assert list(found(head)) == list(found(store)) == [TIMES[0], 3 * HOUR_MS]
    assert not [key for key in raw.keys("*:vec:*") if key.endswith(b":1")]  # all of that hour
    assert 0 < raw.pttl(name(0)) <= lived and not head.misses + store.misses
    assert head.forget("dock") == 4 and not raw.keys("*{dock}:*")
    store.close()


def test_what_is_appended_while_a_span_is_deleted_stays(head: CarrierStore, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head.put([telling(at_ms) for at_ms in TIMES[:2]])
    client: Any = head._client
    transaction = client.transaction

    def late(rewrite: Callable[[Any], Any], *names: Any) -> Any:
        appended = []

        def rewrite_late(pipe: Any) -> None:
            rewrite(pipe)
            if not appended:
                appended.append(head.put([telling(TIMES[2])]))

        return transaction(rewrite_late, *names)

    monkeypatch.setattr(client, "transaction", late)
    head.delete("dock", TimeRange(start_ms=TIMES[0], end_ms=TIMES[0]))
    assert list(found(head)) == TIMES[1:3]


def test_fenced_off_or_deleted_nothing_is_appended(head: CarrierStore, raw: Any) -> None:
    head.put([telling(TIMES[0])])
    head.delete("dock", TimeRange(start_ms=TIMES[1], end_ms=TIMES[1]))
    head.put([telling(TIMES[1]), telling(TIMES[2])])
    assert list(found(head)) == [TIMES[0], TIMES[2]] and raw.strlen(name(0)) == 2 * RECORD.itemsize


def test_hours_go_with_the_last_of_their_carriers(head: CarrierStore, redis_url: str, raw: Any) -> None:
    head.put([telling(at_ms) for at_ms in (0, HOUR_MS, 2 * HOUR_MS, 2 * HOUR_MS + 1)])
    raw.unlink(*[keys.carrier(telling(at_ms).carrier.key, FINGERPRINT) for at_ms in (0, HOUR_MS, 2 * HOUR_MS)])
    head.tidy("dock")
    assert [raw.exists(name(hour)) for hour in range(3)] == [0, 0, 1]
    raw.unlink(*raw.keys("lw:{dock}:kv:*"))
    head.tidy("dock")
    assert not raw.keys("*:vec:*")
    brief = CarrierStore(redis_url, FINGERPRINT, head=HEAD, ttl_s=0.05)
    brief.put([telling(T)])
    eventually(lambda: not raw.keys("*:vec:*"))
    brief.close()


def test_what_was_read_is_cached_until_it_grows_or_something_is_deleted(head: CarrierStore, redis_url: str, raw: Any) -> None:
    reader = CarrierStore(redis_url, FINGERPRINT, head=HEAD, cache_bytes=1_000_000)
    assert reader.cache is not None
    claim = head.claim("dock")
    head.put([telling(at_ms, claim=claim) for at_ms in TIMES[:5]])
    first, again = found(reader), found(reader)
    assert all((first[at_ms] == again[at_ms]).all() for at_ms in TIMES[:5]) and (reader.cache.hits, reader.cache.misses) == (2, 2)
    raw.setrange(name(0), 8, bytes(4))  # of what is cached nothing is read again
    assert found(reader)[T].any()
    head.put([telling(TIMES[5], claim=claim)])
    assert list(found(reader)) == TIMES and reader.cache.misses == 3
    head.delete("dock", TimeRange(start_ms=T, end_ms=T))
    assert list(found(reader)) == TIMES[1:] and reader.cache.misses == 5
    reader.close()
