"""Moments that show what an earlier one shows, in a real Redis: read as that one, gone with it, and never believed when odd."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from carriers import FINGERPRINT, HEAD, assert_same, carrier, dump, key, telling, write

from pipeline.core import CarrierWrite, Superseded, TimeRange
from storage import keys, repeats
from storage.codec import Codec
from storage.errors import BadValue
from storage.seal import Seal
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

SEALED = Codec(seal=Seal([bytes(range(32))]))


def repeat(at_ms: int, of_ms: int, **more: Any) -> CarrierWrite:
    return replace(write(at_ms, live=(of_ms,), **more), repeats=of_ms)


def name(at_ms: int) -> str:
    return keys.carrier(key(at_ms), FINGERPRINT)


@pytest.mark.parametrize("codec", [Codec(), SEALED], ids=["clear", "sealed"])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_repeat_is_read_as_what_it_repeats_at_its_own_time(redis_url: str, raw: Any, codec: Codec, cache_bytes: int) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, codec=codec, cache_bytes=cache_bytes)
    claim = store.claim("dock")
    store.put([write(1000, claim=claim), repeat(2000, 1000, claim=claim)])  # in one batch
    store.put([repeat(3000, 1000, claim=claim), write(4000, claim=claim)])
    assert store.times("dock") == [1000, 2000, 3000, 4000] and store.newest("dock") == 4000
    for _ in range(2):
        first, second, third, other = store.get([key(at_ms) for at_ms in (1000, 2000, 3000, 4000)])
        assert_same(first, carrier(1000))
        assert_same(second, replace(carrier(1000), key=key(2000), span=TimeRange(start_ms=1000, end_ms=2000)))
        assert_same(third, replace(carrier(1000), key=key(3000), span=TimeRange(start_ms=1000, end_ms=3000)))
        assert_same(other, carrier(4000))
    assert store.picture("dock", 3000) == b"\xff\xd8 1000" and not store.misses
    assert raw.strlen(name(3000)) == raw.strlen(keys.picture("dock", 3000)) == repeats.SIZE + codec.seal.overhead
    store.close()


def test_a_repeat_has_a_vector_of_its_own(redis_url: str) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, head=HEAD)
    store.put([telling(1000), replace(telling(2000), repeats=1000)])
    [(at_ms, _)] = store.vectors("dock", TimeRange(start_ms=0, end_ms=9999))
    assert at_ms.tolist() == [1000, 2000]
    store.close()


def test_putting_repeats_again_changes_nothing(store: CarrierStore, raw: Any) -> None:
    writes = [write(1000), repeat(2000, 1000)]
    store.put(writes)
    before = dump(raw)
    store.put(writes)
    store.put(writes[1:])
    assert dump(raw) == before


@pytest.mark.parametrize("lost", ["kv", "pic", "all"])
def test_what_would_repeat_something_that_is_gone_is_kept_whole(store: CarrierStore, raw: Any, lost: str) -> None:
    store.put([write(1000)])
    if lost == "all":
        raw.flushall()  # the server restarted empty
    else:
        raw.unlink(*raw.keys(f"lw:{{dock}}:{lost}:*"))
    store.put([repeat(2000, 1000)])
    assert_same(store.get([key(2000)])[0], carrier(2000))
    assert store.picture("dock", 2000) == b"\xff\xd8 2000"


def test_a_repeat_of_what_was_deleted_under_way_is_kept_whole(store: CarrierStore) -> None:
    store.delete("dock", TimeRange(start_ms=500, end_ms=1500))
    store.put([write(1000), repeat(2000, 1000)])  # the first is left out
    assert store.times("dock") == [2000]
    assert_same(store.get([key(2000)])[0], carrier(2000))


def test_an_older_prefiller_repeats_nothing(store: CarrierStore, redis_url: str) -> None:
    zombie, other = store.claim("dock"), CarrierStore(redis_url, FINGERPRINT)
    store.put([write(1000, claim=zombie)])
    other.claim("dock")
    with pytest.raises(Superseded):
        store.put([repeat(2000, 1000, claim=zombie)])
    assert store.times("dock") == [1000]
    other.close()


def test_a_repeat_expires_with_what_it_repeats(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, ttl_s=1000, picture_ttl_s=100)
    store.put([write(1000), repeat(31_000, 1000)])
    for of, ttl_ms in (("kv:" + FINGERPRINT, 1_000_000), ("pic", 100_000)):
        first, again = (raw.pexpiretime(f"lw:{{dock}}:{of}:{at_ms}") for at_ms in (1000, 31_000))
        assert 29_900 <= first - again <= 30_100 and raw.pttl(f"lw:{{dock}}:{of}:1000") <= ttl_ms
    store.close()


def test_deleting_a_time_takes_the_rest_of_the_still_time_that_it_reaches_into(store: CarrierStore, raw: Any) -> None:
    store.put([write(1000), *(repeat(at_ms, 1000) for at_ms in range(2000, 6000, 1000)), write(6000), repeat(7000, 6000)])
    store.delete("dock", TimeRange(start_ms=3000, end_ms=3500))
    assert store.times("dock") == [1000, 2000, 6000, 7000] and all(store.get([key(at_ms) for at_ms in (1000, 2000, 6000, 7000)]))
    store.delete("dock", TimeRange(start_ms=6000, end_ms=6000))
    assert store.times("dock") == [1000, 2000]
    assert {int(at_ms) for at_ms in raw.zrange(keys.pictures("dock"), 0, -1)} == {1000, 2000}
    assert len([each for each in raw.scan_iter() if keys.moment(each)]) == 4


def test_the_oldest_goes_with_its_repeats(redis_url: str, raw: Any) -> None:
    size = len(Codec().encode(carrier(1000)))
    store = CarrierStore(redis_url, FINGERPRINT, keep_bytes=2 * 100 * size)
    for at_ms in range(0, 200_000, 1000):
        store.put([write(at_ms), *(repeat(at_ms + 100 * part, at_ms) for part in range(1, 4))])
    store.tidy("dock")
    left = store.times("dock")
    assert left[0] % 1000 == 0 and 4 * 80 < len(left) < 4 * 105
    assert all(store.get([key(at_ms) for at_ms in left])) and not store.misses
    raw.unlink(name(left[0]))  # evicted
    store.tidy("dock")
    assert store.times("dock") == left[4:]
    store.close()


def test_a_live_memory_reaches_to_the_last_repeat(store: CarrierStore) -> None:
    store.put([write(1000), write(5000, live=(1000, 5000))])
    store.put([replace(repeat(9000, 5000), live=(1000, 5000))])
    first, last = store.live("dock")
    assert_same(first, carrier(1000))
    assert_same(last, replace(carrier(5000), span=TimeRange(start_ms=5000, end_ms=9000)))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (repeats.encode(1000, name(3000)), "checksum"),  # another moment's
        (repeats.encode(1000, keys.picture("dock", 2000)), "checksum"),
        (repeats.encode(2000, name(2000)), "malformed"),  # of itself
        (repeats.encode(2001, name(2000)), "malformed"),
        (repeats.encode(2000 - repeats.FURTHEST_MS - 1, name(2000)), "malformed"),
        (repeats.encode(1500, name(2000)), "malformed"),  # of a repeat
        (repeats.encode(1700, name(2000)), "missing"),
        (repeats.encode(1000, name(2000))[:-1], "length"),
        (b"LWSA\x02" + repeats.encode(1000, name(2000))[5:], "version"),
    ],
)
def test_an_odd_repeat_is_a_counted_miss(store: CarrierStore, raw: Any, value: bytes, reason: str) -> None:
    store.put([write(1000), repeat(1500, 1000), repeat(2000, 1000)])
    raw.set(name(2000), value)
    assert store.get([key(2000)]) == [None] and dict(store.misses) == {reason: 1}


def test_no_flipped_bit_points_elsewhere() -> None:
    value = repeats.encode(1000, name(2000))
    for bit in range(8 * len(value)):
        flipped = (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")
        with suppress(BadValue):
            assert repeats.decode(flipped, name(2000), 2000) is None


def test_a_repeat_in_the_clear_is_not_believed_where_values_are_sealed(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, codec=SEALED)
    store.put([write(1000), repeat(2000, 1000)])
    sealed = raw.get(name(2000))
    raw.set(name(2000), repeats.encode(1000, name(2000)))
    raw.set(name(3000), sealed)
    assert store.get([key(2000), key(3000)]) == [None, None] and dict(store.misses) == {"unsealed": 1, "seal": 1}
    store.close()
