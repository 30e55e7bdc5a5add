"""How the memory stays within its time and its bytes, and what a reader sees of that."""

from typing import Any

import pytest
from carriers import FINGERPRINT, carrier, eventually, key, write

from pipeline.core import Gap, TimeRange
from storage import keys
from storage.codec import encode
from storage.shelf import CHUNK
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

SIZE = len(encode(carrier(1000)))


def test_a_reader_passes_over_what_has_expired_and_changes_nothing(store: CarrierStore, raw: Any) -> None:
    times = list(range(1000, 1200))
    store.put([write(at_ms) for at_ms in times])
    raw.unlink(*[keys.carrier(key(at_ms), FINGERPRINT) for at_ms in times[:-2]])
    assert store.times("dock") == [1198, 1199]
    assert store.times("dock", TimeRange(start_ms=0, end_ms=1100)) == []
    assert raw.zcard(keys.index("dock", FINGERPRINT)) == 200


def test_what_has_expired_leaves_the_indexes(store: CarrierStore, raw: Any) -> None:
    times = list(range(1000, 1000 + 2 * CHUNK))
    store.put([write(at_ms) for at_ms in times])
    raw.unlink(*[keys.carrier(key(at_ms), FINGERPRINT) for at_ms in times[:-2]])
    raw.unlink(*[keys.picture("dock", at_ms) for at_ms in times[:-1]])
    store.tidy("dock")
    assert store.span("dock") == TimeRange(start_ms=times[-2], end_ms=times[-1])
    assert (raw.zcard(keys.index("dock", FINGERPRINT)), raw.zcard(keys.pictures("dock"))) == (2, 1)
    raw.unlink(*raw.keys("lw:{dock}:kv:*"))
    store.tidy("dock")
    assert not raw.exists(keys.index("dock", FINGERPRINT)) and store.span("dock") is None


def test_an_eviction_that_left_gaps_drops_just_what_is_gone(store: CarrierStore, raw: Any) -> None:
    times = list(range(1000, 1000 + 3 * CHUNK))
    store.put([write(at_ms) for at_ms in times])
    gone = set(times[: 2 * CHUNK : 3])
    raw.unlink(*[keys.carrier(key(at_ms), FINGERPRINT) for at_ms in gone])
    left = [at_ms for at_ms in times if at_ms not in gone]
    assert store.times("dock") == left
    store.tidy("dock")
    assert [int(member) for member in raw.zrange(keys.index("dock", FINGERPRINT), 0, -1)] == left


def test_pictures_go_by_their_own_shorter_clock(redis_url: str) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, ttl_s=100, picture_ttl_s=0.05)
    store.put([write(1000)])
    eventually(lambda: store.picture("dock", 1000) is None)
    store.tidy("dock")
    assert store.kept("dock").pictures == 0 and store.times("dock") == [1000]
    store.close()


def test_a_camera_keeps_to_its_bytes_by_its_oldest_and_others_do_not_pay_for_it(redis_url: str, raw: Any) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, keep_bytes=2 * 100 * SIZE)
    store.put([write(at_ms) for at_ms in range(1000, 3000)] + [write(at_ms, "gate") for at_ms in range(50)])
    for camera_id in ("dock", "gate"):
        store.tidy(camera_id)
    left = store.times("dock")
    assert left == list(range(3000 - len(left), 3000)) and 95 <= len(left) <= 100  # estimated from a sample
    assert len(raw.keys("lw:{dock}:kv:*")) == len(left)
    assert store.kept("dock").pictures == 2000  # small: within their half
    assert len(store.times("gate")) == 50
    assert all(store.get([key(at_ms) for at_ms in left]))
    store.close()


def test_without_a_limit_nothing_is_dropped(store: CarrierStore) -> None:
    store.put([write(at_ms) for at_ms in range(100)])
    store.tidy("dock")
    assert len(store.times("dock")) == 100


def test_what_is_kept_is_told_in_numbers(store: CarrierStore) -> None:
    gap = Gap(camera_id="dock", span=TimeRange(start_ms=1, end_ms=2), reason="why")
    assert store.kept("dock").span is None and store.kept("dock").carrier_bytes == 0
    store.put([write(at_ms) for at_ms in range(1000, 1300)])
    store.note_loss(gap)
    store.note_loss(gap)
    kept = store.kept("dock")
    assert (kept.carriers, kept.pictures, kept.gaps) == (300, 300, (gap,))
    assert kept.span == TimeRange(start_ms=1000, end_ms=1299)
    assert abs(kept.carrier_bytes - 300 * SIZE) < 300 and kept.picture_bytes == 300 * len(b"\xff\xd8 1000")


def test_losses_are_found_by_time_and_what_is_odd_is_left_out(store: CarrierStore, raw: Any) -> None:
    spans = [TimeRange(start_ms=start, end_ms=start + 10) for start in (0, 100, 200)]
    for span in spans:
        store.note_loss(Gap(camera_id="dock", span=span, reason="why"))
    store.note_loss(Gap(camera_id="dock", span=TimeRange(start_ms=100, end_ms=105), reason="not yet all"))
    store.note_loss(Gap(camera_id="dock", span=spans[1], reason="why"))
    raw.zadd(keys.lost("dock"), {"{": 300, "[1]": 300, '["a", 1, ""]': 300, "3": 300})
    assert [gap.span for gap in store.losses("dock")] == spans
    assert [gap.span for gap in store.losses("dock", TimeRange(start_ms=110, end_ms=199))] == spans[1:2]
    assert store.losses("gate") == []
