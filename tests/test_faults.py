"""The memory through every fault of its server: ingest goes on, the buffer is bounded, what is lost is named, and all heals by itself."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from carriers import FINGERPRINT, assert_same, carrier, eventually, key, write
from faults import Proxy, Servers, port_of, through
from numpy.typing import NDArray

from pipeline.answerer import Answerer
from pipeline.core import Alert, Carrier, CarrierWrite, Mode, NoMemory, Question, StoreUnavailable
from pipeline.sinks import Outbox
from pipeline.writer import Writer
from storage import ahead, keys
from storage.registry import Registry
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

TIMEOUT_S = 0.3  # of a call to the store
LIMIT = 20


@dataclass
class Decoder:
    """Says yes, and remembers what it was shown."""

    fingerprint: str = FINGERPRINT
    mode: Mode = "carriers"
    looks: bool = False
    text: str = "yes"
    probability: float = 1.0
    shown: list[Carrier] = field(default_factory=list)
    attention: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def decode(self, question: str, carriers: Sequence[Carrier]) -> "Decoder":
        self.shown, self.attention = list(carriers), np.zeros(len(carriers))
        return self

    def sought(self, question: str) -> None:
        return None


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    opened = Servers(tmp_path)
    yield opened
    opened.close()


class Plane:
    """The end of a prefill plane: a store, and a writer before it."""

    def __init__(self, url: str, limit: int = LIMIT, timeout_s: float = TIMEOUT_S) -> None:
        self.store = CarrierStore(url, FINGERPRINT, timeout_s=timeout_s)
        self.memory = CarrierStore(url, FINGERPRINT, timeout_s=60)  # the same, read by one who is patient
        self.acknowledged = self.refused = 0
        self._took_s: list[float] = []  # each write
        self.writer = Writer(self._put, note=self.store.note_loss, limit=limit, retry_s=0.05)
        self.claim = self.memory.claim("dock")
        self.sent: list[int] = []

    def see(self, count: int) -> None:
        for at_ms in range(len(self.sent), len(self.sent) + count):
            one, began = write(at_ms, claim=self.claim), time.monotonic()
            self.writer.write(one)
            self._took_s.append(time.monotonic() - began)
            self.sent.append(at_ms)
        held_up = sum(took_s >= TIMEOUT_S for took_s in self._took_s)
        assert held_up <= 1 + len(self._took_s) / 10  # a busy machine holds up one or two; waiting for the store would hold up each

    def _put(self, writes: Sequence[CarrierWrite]) -> None:
        try:
            self.store.put(writes)
        except StoreUnavailable:
            self.refused += 1
            raise
        self.acknowledged += len(writes)

    def is_up_to_date(self) -> bool:
        return self.memory.newest("dock") == self.sent[-1]

    def close(self) -> None:
        self.writer.close()
        self.store.close()
        self.memory.close()


def fault(name: str) -> Callable[[Servers], AbstractContextManager[None]]:
    return lambda servers: getattr(servers, name)()


@pytest.mark.parametrize("name", ["frozen", "killed", "full", "read_only", "no_room_for_snapshots", "no_room_to_append"])
def test_an_outage_costs_what_the_buffer_does_not_hold_and_that_is_named(servers: Servers, name: str) -> None:
    plane = Plane(servers.first.url)
    plane.see(10)
    eventually(lambda: plane.acknowledged == 10)  # what is kept but not acknowledged would be put again, and counted as lost
    with fault(name)(servers):
        plane.see(5 * LIMIT)
        eventually(lambda: plane.writer.lost == 4 * LIMIT)  # what was under way has come back: the buffer is full, and no more
    eventually(lambda: plane.is_up_to_date() and bool(plane.memory.losses("dock")))  # noted once a put was acknowledged
    kept = plane.memory.times("dock")
    assert kept[-LIMIT:] == plane.sent[-LIMIT:] and plane.writer.lost == 4 * LIMIT
    plane.see(1)
    eventually(plane.is_up_to_date)
    gone = set(plane.sent) - set(kept) - (set(range(10)) if name == "killed" else set())
    eventually(lambda: all(f"{4 * LIMIT} moments" in gap.reason for gap in plane.memory.losses("dock")))
    (loss,) = plane.memory.losses("dock")
    assert {loss.span.start_ms, loss.span.end_ms - 900} <= gone and all(at_ms in loss.span for at_ms in gone)
    answer = Answerer(Decoder(), plane.memory, lambda: ["dock"]).answer(Question(text="Was there a car?"))
    assert any(f"{4 * LIMIT} moments were seen and could not be kept" in gap.reason for gap in answer.gaps)
    plane.close()


def test_a_short_outage_costs_nothing(servers: Servers) -> None:
    plane = Plane(servers.first.url)
    with servers.frozen():
        plane.see(LIMIT)
        eventually(lambda: plane.refused > 0)
    eventually(plane.is_up_to_date)
    assert plane.memory.times("dock") == plane.sent and plane.writer.lost == 0 and plane.memory.losses("dock") == []
    plane.close()


def test_half_a_minute_of_silence_costs_nothing_and_holds_nobody_up(servers: Servers) -> None:
    plane = Plane(servers.first.url, limit=512)  # as the prefill plane has it
    plane.see(10)
    with servers.frozen():
        end_s = time.monotonic() + 30
        while time.monotonic() < end_s:
            plane.see(1)
            time.sleep(0.1)
    eventually(plane.is_up_to_date)
    assert plane.memory.times("dock") == plane.sent and plane.writer.lost == 0 and len(plane.sent) > 150
    plane.close()


def test_alerts_that_cannot_be_kept_wait_for_the_server_and_none_is_told_twice(servers: Servers) -> None:
    registry, told, fault = Registry(servers.first.url), list[Alert](), ExitStack()
    alerts = [Alert(id=f"a{n}", rule_id="r", condition="x", camera_id="dock", at_ms=n, probability=1, evidence=()) for n in range(5)]

    def tell(alert: Alert) -> None:
        told.append(alert)
        if len(told) == 1:
            fault.enter_context(servers.read_only())

    outbox = Outbox(registry.add_alert, tell)
    with fault:
        for found in (alerts[:3], alerts[3:4]):
            with pytest.raises(StoreUnavailable):
                outbox.send(found)
        assert told == alerts[:1]
    outbox.send(alerts[4:])
    assert told == alerts and registry.alerts() == alerts[::-1]
    registry.close()


def test_a_durable_server_that_is_killed_comes_back_with_everything(tmp_path: Path) -> None:
    servers = Servers(tmp_path, durable=True)
    plane = Plane(servers.first.url)
    plane.see(LIMIT)
    eventually(lambda: plane.acknowledged == LIMIT)
    servers.await_appended()
    with servers.killed():
        plane.see(LIMIT)
    eventually(plane.is_up_to_date)
    assert plane.memory.times("dock") == plane.sent and plane.writer.lost == 0
    plane.close()
    servers.close()


def test_a_slow_server_is_kept_up_with(servers: Servers) -> None:
    proxy = Proxy(port_of(servers.first))
    plane = Plane(through(servers.first.url, proxy), timeout_s=10)
    proxy.delay_s = 0.2
    for _ in range(6):
        plane.see(LIMIT // 2)
        eventually(lambda: plane.acknowledged == len(plane.sent))
    assert plane.memory.times("dock") == plane.sent and plane.writer.lost == 0
    plane.close()
    proxy.close()


@pytest.mark.parametrize("after", [200, 700, 2500, 9000])
def test_a_connection_that_is_cut_mid_write_leaves_all_of_a_batch_or_nothing(servers: Servers, after: int) -> None:
    proxy = Proxy(port_of(servers.first))
    direct = CarrierStore(servers.first.url, FINGERPRINT, timeout_s=60)
    plane = Plane(through(servers.first.url, proxy))
    proxy.cut_after = after
    plane.see(LIMIT)

    def cut_thrice() -> bool:
        if plane.acknowledged == len(plane.sent):  # small batches may all have got through between the cuts
            plane.see(LIMIT // 2)
        return proxy.cuts > 2

    eventually(cut_thrice)
    seen = direct.times("dock")
    assert all(direct.get([key(at_ms) for at_ms in seen]))  # no entry without its value
    proxy.cut_after = None
    eventually(lambda: plane.acknowledged == len(plane.sent))
    assert direct.times("dock") == plane.sent and plane.writer.lost == 0
    for at_ms in plane.sent:
        assert_same(direct.get([key(at_ms)])[0], carrier(at_ms))
    plane.close()
    proxy.close()
    direct.close()


# Wrong bytes


def foreign_camera(raw: Any, name: str) -> None:
    raw.set(name, raw.get(keys.carrier(key(2000, "gate"), FINGERPRINT)))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw, name: raw.setbit(name, 2000, 1 - raw.getbit(name, 2000)), "checksum"),
        (lambda raw, name: raw.set(name, raw.get(name)[:100]), "length"),
        (foreign_camera, "key"),
        (lambda raw, name: raw.setrange(name, 4, b"\x00\x00"), "version"),
        (lambda raw, name: raw.copy(keys.carrier(key(2000), "ffffffff"), name, replace=True), "fingerprint"),
        (lambda raw, name: raw.unlink(name), "missing"),
    ],
    ids=["flipped bit", "truncated", "another camera's", "old format", "another model's", "evicted"],
)
def test_no_answer_is_made_from_wrong_bytes_and_it_says_that_something_is_missing(
    store: CarrierStore, raw: Any, redis_url: str, damage: Callable[[Any, str], object], reason: str
) -> None:
    store.put([write(at_ms, camera) for camera in ("dock", "gate") for at_ms in (1000, 2000, 3000)])
    foreign = CarrierStore(redis_url, "ffffffff")
    foreign.put([write(2000, fingerprint="ffffffff")])
    foreign.close()
    damage(raw, keys.carrier(key(2000), FINGERPRINT))
    decoder = Decoder()
    answer = Answerer(decoder, store, lambda: ["dock"], now_ms=lambda: 3000).answer(Question(text="Was there a car?"))
    assert [shown.key.at_ms for shown in decoder.shown] == [1000, 3000] and answer.carriers == 2
    assert store.misses == {reason: 1}
    (gap,) = answer.gaps
    assert gap.reason.startswith("1 of 3 moments of dock") and (gap.span.start_ms, gap.span.end_ms) == (2000, 2000)


def test_swapped_replies_are_misses(store: CarrierStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put([write(at_ms) for at_ms in (1000, 2000)])
    mget = ahead.mget
    monkeypatch.setattr(ahead, "mget", lambda client, batches: (values[::-1] for values in mget(client, batches)))
    with pytest.raises(NoMemory):
        Answerer(Decoder(), store, lambda: ["dock"]).answer(Question(text="Was there a car?"))
    assert store.misses == {"key": 2}
