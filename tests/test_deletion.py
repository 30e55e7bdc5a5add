"""Deletion leaves no trace, and who may write is settled by the store."""

import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from carriers import FINGERPRINT, dump, key, write

from pipeline.core import Gap, StoreUnavailable, Superseded, TimeRange
from storage import guard, keys
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

EVER = TimeRange(start_ms=0, end_ms=2**50)


@pytest.fixture
def other(redis_url: str) -> Iterator[CarrierStore]:
    """Another process on the same memory."""
    opened = CarrierStore(redis_url, FINGERPRINT)
    yield opened
    opened.close()


def names(raw: Any) -> set[bytes]:
    return set(raw.scan_iter())


def test_forget_leaves_no_key_of_the_camera_and_every_key_of_others(store: CarrierStore, redis_url: str, raw: Any) -> None:
    foreign = CarrierStore(redis_url, "ffffffff")
    for camera_id in ["dock", "dock2", "doc", "dock-2"]:
        store.put([write(at_ms, camera_id) for at_ms in (1000, 2000)])
        foreign.put([write(at_ms, camera_id, fingerprint="ffffffff") for at_ms in (1000, 3000)])
        store.note_loss(Gap(camera_id=camera_id, span=TimeRange(start_ms=1, end_ms=2), reason="why"))
    before = names(raw)
    traces = {name for name in before if b"{dock}" in name}
    assert len(traces) == 13
    assert store.forget("dock") == 7  # four carriers, three pictures
    assert names(raw) == before - traces | {keys.guard("dock").encode()}
    assert 0 < raw.pttl(keys.guard("dock")) <= guard.STRAGGLERS_MS  # and then that is gone too
    assert store.forget("dock") == 0
    foreign.close()


def test_a_deleted_span_is_gone_from_every_value_and_what_is_around_it_stays(store: CarrierStore, redis_url: str, raw: Any) -> None:
    foreign = CarrierStore(redis_url, "ffffffff")
    times = list(range(10_000, 12_500))  # more than one batch of the scan
    store.put([write(at_ms) for at_ms in times[:-1]] + [write(times[-1], live=(10_000, 11_000, 12_499))])
    foreign.put([write(11_000, fingerprint="ffffffff")])
    for start in (9_000, 10_990, 12_000):
        store.note_loss(Gap(camera_id="dock", span=TimeRange(start_ms=start, end_ms=start + 20), reason="why"))
    span = TimeRange(start_ms=11_000, end_ms=11_999)
    assert store.delete("dock", span) == 2001
    left = [at_ms for at_ms in times if at_ms not in span]
    assert store.times("dock") == left and foreign.times("dock") == []
    assert not [name for name in names(raw) if (at_ms := keys.moment(name)) and at_ms in span]
    assert [int(member) for member in raw.zrange(keys.pictures("dock"), 0, -1)] == left
    assert msgpack.unpackb(raw.get(keys.live("dock", FINGERPRINT))) == [10_000, 12_499]
    assert not raw.exists(keys.live("dock", "ffffffff"))
    assert [gap.span.start_ms for gap in store.losses("dock")] == [9_000, 12_000]
    foreign.close()


def test_what_is_under_way_in_a_deleted_span_is_not_kept(store: CarrierStore) -> None:
    store.put([write(1000)])
    store.delete("dock", TimeRange(start_ms=0, end_ms=2500))
    store.put([write(2000)])
    store.put([write(2001), write(3000)])
    assert store.times("dock") == [3000] and store.newest_picture("dock") == (3000, b"\xff\xd8 3000")


def test_a_forgotten_camera_that_comes_back_is_remembered_from_then_on(store: CarrierStore) -> None:
    now_ms = time.time_ns() // 1_000_000
    store.put([write(now_ms - 1000)])
    store.forget("dock")
    store.put([write(now_ms + 1000)])  # still under way
    assert store.times("dock") == []
    store.put([write(now_ms + 400_000)])
    assert store.times("dock") == [now_ms + 400_000]


def test_what_rests_on_deleted_memory_is_refused_until_it_is_claimed_anew(store: CarrierStore, other: CarrierStore) -> None:
    old = store.claim("dock")
    store.put([write(1000, claim=old)])
    other.delete("dock", TimeRange(start_ms=1000, end_ms=1000))
    with pytest.raises(Superseded, match="deleted"):
        store.put([write(2000, claim=old)])
    new = store.claim("dock")
    assert store.live("dock") == []
    store.put([write(3000, claim=new)])
    with pytest.raises(Superseded):
        store.put([write(4000, claim=old)])
    assert store.times("dock") == [3000]


def test_the_older_of_two_prefillers_is_fenced_off_for_good(store: CarrierStore, other: CarrierStore, raw: Any) -> None:
    zombie = store.claim("dock")
    store.put([write(1000, claim=zombie)])
    newer = other.claim("dock")
    before = dump(raw)
    with pytest.raises(Superseded, match="another prefiller"):
        store.put([write(2000, claim=zombie)])
    with pytest.raises(Superseded, match="another prefiller"):
        store.claim("dock")
    assert dump(raw) == before
    other.put([write(3000, claim=newer)])
    assert store.times("dock") == [1000, 3000]
    store.put([write(4000, "gate", claim=store.claim("gate"))])  # its other cameras are its own


def test_a_newer_claim_between_the_check_and_the_write_undoes_the_write(
    store: CarrierStore, other: CarrierStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = store.claim("dock")
    renew = guard.renew

    def late(*arguments: Any) -> None:
        other.claim("dock")
        renew(*arguments)

    monkeypatch.setattr(guard, "renew", late)
    with pytest.raises(StoreUnavailable):
        store.put([write(1000, claim=ours)])
    monkeypatch.undo()
    assert store.times("dock") == []
    with pytest.raises(Superseded):
        store.put([write(1000, claim=ours)])


def test_a_server_that_restarted_empty_keeps_the_order_of_claims(
    store: CarrierStore, other: CarrierStore, raw: Any, redis_url: str
) -> None:
    zombie, newer = store.claim("dock"), other.claim("dock")
    raw.flushall()
    store.put([write(1000, claim=zombie)])  # nobody is there to refuse it
    other.put([write(2000, claim=newer)])
    with pytest.raises(Superseded):
        store.put([write(3000, claim=zombie)])
    raw.flushall()
    third = CarrierStore(redis_url, FINGERPRINT)
    third.put([write(4000, claim=third.claim("dock"))])
    with pytest.raises(Superseded):
        other.put([write(5000, claim=newer)])
    with pytest.raises(Superseded, match="another prefiller"):
        other.claim("dock")
    third.close()


def test_the_cache_answers_again_and_never_what_was_deleted(redis_url: str, raw: Any) -> None:
    writer, reader = CarrierStore(redis_url, FINGERPRINT), CarrierStore(redis_url, FINGERPRINT, cache_bytes=100_000)
    assert reader.cache is not None
    writer.put([write(at_ms, claim=writer.claim("dock")) for at_ms in (1000, 2000, 3000)])
    wanted = [key(2000), key(1000), key(2000)]
    first, again = reader.get(wanted), reader.get(wanted)
    assert first == again and all(again) and (reader.cache.hits, reader.cache.misses) == (2, 2)
    raw.unlink(keys.carrier(key(2000), FINGERPRINT))  # evicted: what was read is still true
    assert all(reader.get(wanted))
    writer.delete("dock", TimeRange(start_ms=2000, end_ms=2000))
    assert [bool(one) for one in reader.get([key(1000), key(2000)])] == [True, False]
    raw.flushall()
    assert reader.get([key(1000)]) == [None]
    for opened in (writer, reader):
        opened.close()


def test_the_cache_keeps_to_its_bytes_and_lets_the_least_used_go(redis_url: str) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, cache_bytes=5000)  # three carriers
    assert store.cache is not None
    store.put([write(at_ms, claim=store.claim("dock")) for at_ms in range(10)])
    for at_ms in range(10):
        store.get([key(0), key(at_ms)])
        assert store.cache.bytes <= 5000
    hits = store.cache.hits
    assert all(store.get([key(0), key(9), key(8)])) and store.cache.hits == hits + 3
    assert store.get([key(5)])[0] and store.cache.hits == hits + 3
    store.close()
