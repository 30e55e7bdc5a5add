"""The time index as a process sees it that was asked before: always what is there, and little of it read twice."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from carriers import FINGERPRINT, key, write

from pipeline.core import TimeRange
from storage import keys
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

TIMES = list(range(10_000, 14_000))
INDEX = keys.index("dock", FINGERPRINT)


@pytest.fixture
def reader(redis_url: str, store: CarrierStore) -> Iterator[CarrierStore]:
    """One that has read all that `store` put."""
    claim = store.claim("dock")
    store.put([write(at_ms, claim=claim) for at_ms in TIMES])
    opened = CarrierStore(redis_url, FINGERPRINT, cache_bytes=1_000_000)
    assert opened.captured("dock").tolist() == TIMES
    yield opened
    opened.close()


def sent(raw: Any, work: Callable[[], object]) -> int:
    """Bytes that the server sent meanwhile."""
    before: int = raw.info("stats")["total_net_output_bytes"]
    work()
    return int(raw.info("stats")["total_net_output_bytes"]) - before


def test_only_what_is_new_is_read_again(reader: CarrierStore, store: CarrierStore, redis_url: str, raw: Any) -> None:
    store.put([write(20_000), write(20_001)])
    raw.unlink(*[keys.carrier(key(at_ms), FINGERPRINT) for at_ms in TIMES[:50]])  # as it goes on all the time
    store.tidy("dock")
    other = CarrierStore(redis_url, FINGERPRINT)
    assert sent(raw, lambda: reader.times("dock")) < 20_000  # most of that is the statistics
    assert reader.times("dock") == other.times("dock") == [*TIMES[50:], 20_000, 20_001]
    assert sent(raw, lambda: other.times("dock")) > 40_000
    other.close()


CHANGES: dict[str, Callable[[CarrierStore, Any], object]] = {
    "nothing": lambda store, raw: None,
    "the oldest expired": lambda store, raw: (raw.unlink(*[keys.carrier(key(at), FINGERPRINT) for at in TIMES[:50]]), store.tidy("dock")),
    "one in the middle is gone": lambda store, raw: raw.zrem(INDEX, TIMES[77]),
    "one in the middle came late": lambda store, raw: (raw.zrem(INDEX, TIMES[0]), raw.zadd(INDEX, {"9999": 9999, "10000": 10_000})),
    "a span was deleted": lambda store, raw: store.delete("dock", TimeRange(start_ms=TIMES[5], end_ms=TIMES[9])),
    "all was forgotten": lambda store, raw: store.forget("dock"),
    "the index is gone": lambda store, raw: raw.unlink(INDEX),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_is_seen(reader: CarrierStore, store: CarrierStore, raw: Any, change: Callable[[CarrierStore, Any], object]) -> None:
    change(store, raw)
    store.put([write(30_000, claim=store.claim("dock"))])
    for when in (None, TimeRange(start_ms=TIMES[3], end_ms=30_000), TimeRange(start_ms=0, end_ms=TIMES[100])):
        assert reader.times("dock", when) == store.times("dock", when)


def test_of_a_camera_not_asked_about_before_only_the_span_is_read(store: CarrierStore, redis_url: str, raw: Any) -> None:
    store.put([write(at_ms, claim=store.claim("dock")) for at_ms in TIMES])
    fresh = CarrierStore(redis_url, FINGERPRINT, cache_bytes=1_000_000)
    span = TimeRange(start_ms=TIMES[1], end_ms=TIMES[2])
    assert sent(raw, lambda: fresh.times("dock", span)) < 20_000
    assert fresh.times("dock", span) == TIMES[1:3] and fresh.times("dock", TimeRange(start_ms=1, end_ms=2)) == []
    fresh.close()
