import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from carriers import FINGERPRINT, assert_same, carrier, dump, eventually, key, write

from pipeline.core import BadCamera, Carrier, CarrierWrite, StoreUnavailable, TimeRange
from storage import keys
from storage.codec import BadCarrier
from storage.redis_server import PrivateRedis
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

TIMEOUT_S = 0.2
BOUND_S = 8 * TIMEOUT_S  # about 2.5 when the machine is idle


@contextmanager
def unavailable_within(bound_s: float) -> Iterator[pytest.ExceptionInfo[StoreUnavailable]]:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        yield caught
    assert time.monotonic() - started < bound_s


def test_what_is_put_is_got_bit_for_bit_in_the_order_asked(store: CarrierStore) -> None:
    times = range(1000, 1100)  # several batches
    store.put([write(at_ms) for at_ms in times])
    store.put([write(1000, "gate"), write(1001, "yard")])
    for at_ms, got in zip(reversed(times), store.get([key(at_ms) for at_ms in reversed(times)]), strict=True):
        assert_same(got, carrier(at_ms))
    yard, gate = store.get([key(1001, "yard"), key(1000, "gate")])
    assert_same(yard, carrier(1001, "yard"))
    assert_same(gate, carrier(1000, "gate"))
    assert store.get([]) == [] and not store.misses


def test_times_newest_and_span(store: CarrierStore) -> None:
    assert (store.times("dock"), store.newest("dock"), store.span("dock")) == ([], None, None)
    first, second, last = 1_763_810_000_000, 1_763_810_000_001, 1_763_810_030_000  # exact to the millisecond
    store.put([write(at_ms) for at_ms in (last, second, first)])
    assert store.times("dock") == [first, second, last]
    assert store.times("dock", TimeRange(start_ms=second, end_ms=last)) == [second, last]
    assert store.times("dock", TimeRange(start_ms=second + 1, end_ms=last - 1)) == []
    assert store.newest("dock") == last
    assert store.span("dock") == TimeRange(start_ms=first, end_ms=last)
    assert store.times("gate") == []


def test_a_repeated_put_changes_nothing(store: CarrierStore, raw: Any) -> None:
    writes = [write(1000), write(2000, live=(1000, 2000))]
    store.put(writes)
    before = dump(raw)
    store.put(writes)
    assert dump(raw) == before and len(before) == 7


def test_the_first_value_of_a_key_stays(store: CarrierStore) -> None:
    store.put([write(1000)])
    other = carrier(2000)
    forged = Carrier(key=key(1000), fingerprint=FINGERPRINT, span=other.span, embedding=other.embedding, kv=other.kv)
    store.put([CarrierWrite(carrier=forged, picture=b"other", live=(1000,))])
    assert_same(store.get([key(1000)])[0], carrier(1000))
    assert store.picture("dock", 1000) == b"\xff\xd8 1000"


def test_a_batch_with_a_carrier_that_cannot_be_kept_writes_nothing(store: CarrierStore, raw: Any) -> None:
    with pytest.raises(BadCarrier, match="fingerprint"):
        store.put([write(1000), write(2000, fingerprint="ffffffff")])
    assert not dump(raw)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw, name, other: raw.setbit(name, 1000, 1 - raw.getbit(name, 1000)), "checksum"),
        (lambda raw, name, other: raw.set(name, raw.get(other)), "key"),
        (lambda raw, name, other: raw.set(name, raw.get(name)[:-3]), "length"),
        (lambda raw, name, other: raw.append(name, b"x"), "length"),
        (lambda raw, name, other: raw.set(name, ""), "length"),
        (lambda raw, name, other: raw.setrange(name, 4, b"\xff"), "version"),
        (lambda raw, name, other: raw.pexpire(name, 0), "missing"),
        (lambda raw, name, other: (raw.delete(name), raw.lpush(name, "a list")), "missing"),
    ],
    ids=["flipped byte", "swapped", "truncated", "appended", "empty", "version", "expired", "wrong type"],
)
def test_an_odd_value_is_a_counted_miss(store: CarrierStore, raw: Any, damage: Callable[..., Any], reason: str) -> None:
    store.put([write(1000), write(2000)])
    damage(raw, keys.carrier(key(1000), FINGERPRINT), keys.carrier(key(2000), FINGERPRINT))
    odd, sound = store.get([key(1000), key(2000)])
    assert odd is None and store.misses == {reason: 1}
    assert_same(sound, carrier(2000))


def test_a_value_of_another_model_is_a_miss(store: CarrierStore, redis_url: str, raw: Any) -> None:
    foreign = CarrierStore(redis_url, "ffffffff")
    foreign.put([write(1000, fingerprint="ffffffff")])
    assert (store.get([key(1000)]), store.times("dock"), store.live("dock")) == ([None], [], [])
    raw.copy(keys.carrier(key(1000), "ffffffff"), keys.carrier(key(1000), FINGERPRINT))
    assert store.get([key(1000)]) == [None]
    assert store.misses == {"missing": 1, "fingerprint": 1}
    foreign.close()


def test_everything_expires_by_itself(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, ttl_s=0.05, picture_ttl_s=0.05)
    store.put([write(1000), write(2000)])
    eventually(lambda: not dump(raw))
    assert (store.times("dock"), store.newest("dock"), store.newest_picture("dock")) == ([], None, None)
    store.close()


def test_pictures_and_carriers_have_their_own_times_to_live(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, ttl_s=1000, picture_ttl_s=10)
    store.put([write(1000)])
    lives = {name.decode(): raw.ttl(name) for name in raw.scan_iter()}
    short = {keys.picture("dock", 1000), keys.pictures("dock")}
    assert all((990 < ttl <= 1000) != (name in short) for name, ttl in lives.items()) and len(lives) == 5
    store.close()


def test_live_memory_comes_back_in_order_without_its_misses(store: CarrierStore, raw: Any) -> None:
    assert store.live("dock") == []
    store.put([write(1000), write(2000, live=(1000, 2000)), write(3000, live=(3000, 1000, 2000))])
    assert [one.key.at_ms for one in store.live("dock")] == [1000, 2000, 3000]
    raw.unlink(keys.carrier(key(2000), FINGERPRINT))
    back = store.live("dock")
    assert [one.key.at_ms for one in back] == [1000, 3000] and store.misses == {"missing": 1}
    assert_same(back[1], carrier(3000))


ODD_LISTS = [b"\xc1", msgpack.packb("text"), msgpack.packb([1000, "x"]), msgpack.packb([True]), b"\xdd\xff\xff\xff\xff"]


@pytest.mark.parametrize("odd", ODD_LISTS)
def test_an_odd_live_list_is_a_counted_miss(store: CarrierStore, raw: Any, odd: bytes) -> None:
    store.put([write(1000)])
    raw.set(keys.live("dock", FINGERPRINT), odd)
    assert store.live("dock") == [] and store.misses == {"malformed": 1}


def test_pictures(store: CarrierStore) -> None:
    assert (store.picture("dock", 1000), store.newest_picture("dock")) == (None, None)
    store.put([write(2000)])
    store.put([write(1000)])  # late: not the newest
    assert store.picture("dock", 1000) == b"\xff\xd8 1000"
    assert store.picture("dock", 1001) is None
    assert store.newest_picture("dock") == (2000, b"\xff\xd8 2000")


@pytest.mark.parametrize("camera_id", ["*", "a}b", "", "A", "a b", "../x", "a" * 64])
def test_what_is_no_camera_id_never_reaches_redis(store: CarrierStore, camera_id: str) -> None:
    for ask in (store.forget, store.times, store.newest, store.live, store.newest_picture):
        with pytest.raises(BadCamera):
            ask(camera_id)


def every_call(store: CarrierStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put([write(1000)]),
        lambda: store.get([key(1000)]),
        lambda: store.times("dock"),
        lambda: store.newest("dock"),
        lambda: store.span("dock"),
        lambda: store.live("dock"),
        lambda: store.picture("dock", 1000),
        lambda: store.newest_picture("dock"),
        lambda: store.forget("dock"),
        store.ping,
    ]


def test_a_stopped_server_is_said_soon_and_without_its_password(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server:
        store = CarrierStore(server.url, FINGERPRINT, timeout_s=TIMEOUT_S)
        store.put([write(1000)])
        password = server.url.split("@")[0].rsplit(":", 1)[1]
    for call in every_call(store):
        with unavailable_within(BOUND_S) as caught:
            call()
        assert password not in repr(caught.value) + repr(caught.value.__cause__)
    store.close()


def test_a_frozen_server_is_said_soon_and_heals(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server:
        store = CarrierStore(server.url, FINGERPRINT, timeout_s=TIMEOUT_S)
        store.put([write(1000)])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for call in every_call(store):
                with unavailable_within(BOUND_S):
                    call()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        eventually(lambda: store.newest("dock") == 1000)
        store.put([write(2000)])
        assert store.times("dock")[-1] == 2000
        for got in store.get([key(2000)] * 3):  # no late reply of an earlier call is taken for this one's
            assert_same(got, carrier(2000))
        store.close()


def test_a_full_server_is_unavailable_and_not_a_lost_write(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, max_bytes=1) as server:
        store = CarrierStore(server.url, FINGERPRINT)
        with pytest.raises(StoreUnavailable):
            store.put([write(1000)])
        store.close()
