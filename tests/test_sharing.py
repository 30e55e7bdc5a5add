"""Which camera goes to which prefiller: evenly, to one each, with as few moves as can be; and the store believes the latest grant."""

import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from carriers import FINGERPRINT, carrier
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_prefiller import Model, frame

from pipeline.core import Carrier, CarrierWrite, Frame
from pipeline.handover import Handover
from pipeline.ingest import Ingest, Pacing
from pipeline.prefiller import Prefiller
from pipeline.sharing import GONE_S, GRANTS, SLOW, Sharing
from storage.registry import Registry
from storage.store import CarrierStore

CAMERAS = ("dock", "gate", "lane", "yard")


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Site:
    """A sharing, and what each prefiller was told last."""

    clock: Clock = field(default_factory=Clock)
    told: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sharing = Sharing(self.clock)
        self.sharing.keep_only(CAMERAS)

    def turn(self, name: str, holding: dict[str, int] | None = None, away_s: float = 0.1) -> dict[str, int]:
        """It comes with what it was told last, is told anew, and is away for so long."""
        self.sharing.come(name, self.told.get(name, {}) if holding is None else holding)
        self.sharing.leave(name)
        self.told[name] = self.sharing.grants(name)
        self.clock.now_s += away_s
        return self.told[name]


def loads(site: Site) -> list[int]:
    return sorted(Counter(name for name in site.told for _ in site.sharing.grants(name)).values())


def test_one_prefiller_has_every_camera() -> None:
    assert Site().turn("a").keys() == set(CAMERAS)


def test_one_that_comes_is_given_half_and_the_others_stay_where_they_were() -> None:
    site = Site()
    first = site.turn("a")
    assert site.turn("b") == {}, "nothing is taken from a prefiller that is away"
    kept = site.turn("a")
    assert len(kept) == 2 and kept.items() <= first.items()
    given = site.turn("b")
    assert given.keys() == first.keys() - kept.keys() and min(given.values()) > max(first.values())


def test_the_cameras_of_one_that_does_not_come_any_more_go_to_the_others() -> None:
    site = Site()
    for name in "abab":
        site.turn(name)
    lost = site.turn("b")
    site.clock.now_s += GONE_S - 1
    assert len(site.turn("a")) == 2
    site.clock.now_s += 1
    assert site.turn("a").keys() == set(CAMERAS)
    assert all(site.told["a"][camera] > number for camera, number in lost.items())


def test_a_slow_prefiller_is_not_one_that_has_gone() -> None:
    site = Site()
    for _ in range(3):
        for name, away_s in (("a", 0.1), ("b", 2 * GONE_S)):
            site.turn(name, away_s=away_s)
    assert len(site.turn("a")) == 2, "it was away for as long before"
    site.clock.now_s += SLOW * 2 * GONE_S
    assert len(site.turn("a")) == 4


def test_the_only_prefiller_keeps_its_cameras_however_long_it_is_away() -> None:
    site = Site()
    before = site.turn("a", away_s=1000)
    assert site.turn("a") == before


def test_one_that_was_given_up_comes_back_and_is_given_its_half_by_new_grants() -> None:
    site = Site()
    for name in "abab":
        site.turn(name)
    before = site.told["b"]
    site.clock.now_s += GONE_S + 1
    site.turn("a")
    for name in "bab":
        site.turn(name)
    assert len(site.told["b"]) == 2 and min(site.told["b"].values()) > max(before.values())


def test_what_is_held_stays_when_the_ingest_begins_anew() -> None:
    site = Site()
    before = site.turn("a")
    assert Site().turn("a", before) == before


def test_before_the_cameras_are_known_nothing_that_is_held_is_taken_away() -> None:
    sharing = Sharing(Clock())
    sharing.come("a", {"dock": 7, "gone": 8})
    assert sharing.grants("a") == {"dock": 7, "gone": 8}
    sharing.keep_only(CAMERAS)
    assert sharing.grants("a") == {"dock": 7}
    sharing.come("a", {"dock": 7})
    assert sharing.grants("a")["dock"] == 7 and min(n for c, n in sharing.grants("a").items() if c != "dock") > 8


def test_what_the_store_refused_is_granted_anew() -> None:
    site = Site()
    first = site.turn("a")
    second = site.turn("a", first | {"dock": 0})
    assert second["dock"] > max(first.values()) and {**second, "dock": 0} == {**first, "dock": 0}
    assert site.turn("b", {"dock": 0}) == {}, "it is not this one's to be granted"


class AnyWay(RuleBasedStateMachine):
    """Whatever comes, goes, is added and removed: each camera has one owner, and a number that only grows."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site()
        self.cameras: tuple[str, ...] = CAMERAS
        self.numbers: dict[str, tuple[int, str]] = {}

    @rule(name=st.sampled_from("abc"), away_s=st.sampled_from((0.1, 3.0, 30.0)), knows=st.booleans())
    def comes(self, name: str, away_s: float, knows: bool) -> None:
        self.site.turn(name, None if knows else {}, away_s)

    @rule(cameras=st.sets(st.sampled_from((*CAMERAS, "roof", "shed"))))
    def change(self, cameras: set[str]) -> None:
        self.cameras = tuple(sorted(cameras))
        self.site.sharing.keep_only(self.cameras)
        self.numbers = {camera: number for camera, number in self.numbers.items() if camera in cameras}

    @invariant()
    def each_has_one_owner(self) -> None:
        granted = [(camera, name, number) for name in "abc" for camera, number in self.site.sharing.grants(name).items()]
        assert max(Counter(camera for camera, _, _ in granted).values(), default=1) == 1
        for camera, name, number in granted:
            before, owner = self.numbers.get(camera, (number, name))
            assert number > before or (number, name) == (before, owner)
            self.numbers[camera] = (number, name)

    @rule()
    def settles(self) -> None:
        for name in "abcabc":
            self.site.turn(name)
        shares = [self.site.sharing.grants(name) for name in "abc"]
        assert {camera for share in shares for camera in share} == set(self.cameras)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


AnyWay.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyWay = AnyWay.TestCase


def test_a_prefiller_waits_for_its_own_cameras_only() -> None:
    handover = Handover()
    told: list[list[Frame]] = []
    waiting = threading.Thread(target=lambda: told.append(handover.take(9, 30, lambda camera: camera == "gate")))
    waiting.start()
    handover.offer(frame(1, "dock"))
    assert waiting.is_alive() and [one.camera_id for one in handover.take(9, 5)] == ["dock"]
    handover.offer(frame(2, "dock"))
    handover.offer(frame(2, "gate"))
    waiting.join(30)
    assert [[one.camera_id for one in frames] for frames in told] == [["gate"]]
    assert [one.camera_id for one in handover.take(9, 0)] == ["dock"]


class Real(Model):
    """Makes carriers that a store takes."""

    def prefill(self, frames: object, memories: object) -> list[Carrier]:
        return [carrier(one.captured_ms, one.camera_id) for one in frames]  # type: ignore[attr-defined]


@dataclass
class Prefilling:
    """A prefiller with a store of its own, as a process has it."""

    url: str
    name: str

    def __post_init__(self) -> None:
        self.store = CarrierStore(self.url, FINGERPRINT)
        self.failed: list[Exception] = []
        self.prefiller = Prefiller(Real(), self.store.live, self._put, self.store.claim)

    def _put(self, write: CarrierWrite) -> None:
        try:
            self.store.put([write])
        except Exception as error:  # noqa: BLE001 - kept, for the test to see
            self.failed.append(error)
            self.prefiller.drop(write.carrier.key.camera_id)

    def turn(self, ingest: Ingest, frames: list[Frame]) -> list[str]:
        """One step, as the actor does it; the cameras that it prefilled."""
        for one in frames:
            ingest._handover.offer(one)  # noqa: SLF001 - what a camera's thread does
        share = ingest.share(self.name, self.prefiller.holding, 9, 0)
        self.prefiller.keep_only(share.grants)
        return sorted(made.key.camera_id for made in self.prefiller.step(share.frames))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sharing_ingest(clock: Clock, term: int) -> Ingest:
    ingest = Ingest(pacing=Pacing(clock_s=clock))
    ingest.begin(term)
    ingest._sharing.keep_only(CAMERAS)  # noqa: SLF001 - `reconcile` would connect to them
    return ingest


@pytest.mark.redis
def test_a_frozen_prefiller_writes_nothing_of_what_was_given_to_others_and_is_of_use_again(redis_url: str, clock: Clock) -> None:
    registry = Registry(redis_url)
    ingest = sharing_ingest(clock, registry.term())
    one, two = Prefilling(redis_url, "prefill"), Prefilling(redis_url, "prefill-2")
    for at in range(1000, 4000, 1000):
        one.turn(ingest, [frame(at, camera) for camera in CAMERAS])
        two.turn(ingest, [])
    frozen = ingest.share("prefill-2", two.prefiller.holding, 9, 0)  # what it had taken when it froze
    assert len(frozen.grants) == 2
    late = [frame(5000, camera) for camera in frozen.grants]
    clock.now_s += GONE_S + 1
    for at in (6000, 7000):
        one.turn(ingest, [frame(at, camera) for camera in CAMERAS])
    two.prefiller.keep_only(frozen.grants)
    two.prefiller.step(late)
    for at in range(8000, 12_000, 1000):
        two.turn(ingest, [frame(at, camera) for camera in CAMERAS])
        one.turn(ingest, [])
    times = {camera: one.store.times(camera) for camera in CAMERAS}
    assert all({6000, 7000, 8000, 9000, 10_000} <= set(kept) and 5000 not in kept for kept in times.values()), times
    assert len(two.prefiller.holding) == len(one.prefiller.holding) == 2
    assert not one.failed
    for opened in (one.store, two.store, registry):
        opened.close()


@pytest.mark.redis
def test_an_ingest_that_begins_anew_grants_above_what_was_granted_before(redis_url: str, clock: Clock) -> None:
    registry = Registry(redis_url)
    terms = [registry.term() for _ in range(3)]
    assert terms == sorted(set(terms))
    before, prefilling = sharing_ingest(clock, terms[0]), Prefilling(redis_url, "prefill")
    assert prefilling.turn(before, [frame(1000, camera) for camera in CAMERAS]) == sorted(CAMERAS)
    anew = sharing_ingest(clock, terms[1])
    another = Prefilling(redis_url, "prefill")  # both were killed
    assert another.turn(anew, [frame(2000, camera) for camera in CAMERAS]) == sorted(CAMERAS)
    assert min(another.prefiller.holding.values()) > max(prefilling.prefiller.holding.values())
    for opened in (prefilling.store, another.store, registry):
        opened.close()


@pytest.mark.redis
def test_a_camera_that_is_refused_by_the_store_is_not_given_up(redis_url: str, clock: Clock) -> None:
    stranger = CarrierStore(redis_url, FINGERPRINT)
    stranger.claim("gate", 49 * GRANTS + 3)
    ingest, prefilling = sharing_ingest(clock, 49), Prefilling(redis_url, "prefill")
    seen = [prefilling.turn(ingest, [frame(at, "gate")]) for at in range(1000, 6000, 1000)]
    assert seen[0] == [] and seen[-1] == ["gate"], "its numbers have passed the stranger's"
    assert np.all(np.diff(prefilling.store.times("gate")) > 0)
    for opened in (prefilling.store, stranger):
        opened.close()
