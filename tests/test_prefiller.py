"""From frames to what is kept of them, with the real live memory and a model small enough to see through."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.memory import LiveMemory
from pipeline.core import VECTOR, Carrier, CarrierKey, CarrierWrite, Claim, Frame, StoreUnavailable, Superseded, TimeRange
from pipeline.prefiller import REPEAT_MS, Prefiller
from pipeline.prefiller import LiveMemory as Remembers
from pipeline.stillness import CELL

LIMIT = 3


def frame(at_ms: int, camera: str = "gate", shade: int = 0, shows: int | None = None) -> Frame:
    """What goes on is at the top; frames that show the same are the same."""
    shown = at_ms if shows is None else shows
    image = np.full((4 * CELL, 4 * CELL, 3), (shown % 251, shade, 90), np.uint8)
    image[:CELL] = np.random.default_rng(shown).integers(0, 256, (4, 3), np.uint8).repeat(CELL, 0)
    return Frame(camera_id=camera, pts_ns=at_ms * 1_000_000, captured_ms=at_ms, image=image)


class Model:
    """A carrier is the mean colour of its frame, and how many carriers it looked back on."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int, tuple[int, ...]]]] = []  # camera, time, the memory it saw
        self.fails = False
        self.has_head = True

    def memory(self, carriers: Sequence[Carrier] = ()) -> LiveMemory:
        return LiveMemory(LIMIT, carriers)

    def prefill(self, frames: Sequence[Frame], memories: Sequence[Remembers]) -> list[Carrier]:
        if self.fails:
            raise RuntimeError("out of memory")
        pairs = list(zip(frames, memories, strict=True))
        self.batches.append([(f.camera_id, f.captured_ms, tuple(c.key.at_ms for c in m.carriers)) for f, m in pairs])
        assert all(c.key.camera_id == f.camera_id for f, m in pairs for c in m.carriers)
        return [
            Carrier(
                key=CarrierKey(camera_id=f.camera_id, at_ms=f.captured_ms),
                fingerprint="0" * 16,
                span=TimeRange(start_ms=f.captured_ms, end_ms=f.captured_ms),
                embedding=f.image.mean((0, 1), dtype=np.float32),
                kv=np.array([len(m.carriers)], np.float32),
                vector=np.full(VECTOR, f.captured_ms, np.float32) if self.has_head else None,
            )
            for f, m in pairs
        ]


@dataclass
class Store:
    """Keeps what is written and gives a camera's live memory back, as the store does."""

    writes: list[CarrierWrite] = field(default_factory=list)
    recalls: list[str] = field(default_factory=list)
    away: bool = False

    def live(self, camera_id: str) -> list[Carrier]:
        self.recalls.append(camera_id)
        if self.away:
            raise StoreUnavailable("away")
        own = [w for w in self.writes if w.carrier.key.camera_id == camera_id]
        return [w.carrier for w in own if w.carrier.key.at_ms in own[-1].live]

    def start(self, model: Model | None = None) -> Prefiller:
        return Prefiller(model or Model(), self.live, self.writes.append)


def test_every_frame_of_a_batch_meets_its_own_cameras_memory() -> None:
    model, store = Model(), Store()
    prefiller = store.start(model)
    prefiller.step([frame(10, "gate"), frame(11, "dock")])
    prefiller.step([frame(21, "dock"), frame(22, "yard"), frame(20, "gate")])
    assert model.batches[1] == [("dock", 21, (11,)), ("yard", 22, ()), ("gate", 20, (10,))]
    assert [(w.carrier.key.camera_id, w.live) for w in store.writes] == [
        ("gate", (10,)), ("dock", (11,)), ("dock", (11, 21)), ("yard", (22,)), ("gate", (10, 20)),
    ]  # fmt: skip


def test_each_carrier_is_written_with_its_own_vector_or_with_none_by_a_model_without_a_head() -> None:
    model, store = Model(), Store()
    prefiller = store.start(model)
    prefiller.step([frame(10, "gate"), frame(11, "dock")])
    assert [w.carrier.vector[0] for w in store.writes if w.carrier.vector is not None] == [10, 11]
    model.has_head = False
    prefiller.step([frame(20, "gate")])
    assert store.writes[-1].carrier.vector is None


def test_stale_frames_are_counted_and_skipped_and_hold_up_no_other() -> None:
    store = Store()
    prefiller = store.start()
    prefiller.step([frame(100, "gate"), frame(100, "dock")])
    made = prefiller.step([frame(100, "gate"), frame(101, "dock")])  # again
    assert [c.key for c in made] == [CarrierKey(camera_id="dock", at_ms=101)]
    assert prefiller.step([frame(99, "gate")]) == []  # its clock stepped back
    assert prefiller.step([frame(101, "gate")])[0].key.at_ms == 101  # and has caught up
    assert prefiller.stale == 2
    assert [w.carrier.key.at_ms for w in store.writes] == [100, 100, 101, 101]


@settings(deadline=None)
@given(times=st.lists(st.integers(0, 60), max_size=30), cut=st.integers(0, 30))
def test_a_restarted_prefiller_goes_on_as_if_it_had_never_stopped(times: list[int], cut: int) -> None:
    frames = [frame(at, shade=(at * 7919) % 256) for at in times]
    never, broken = Store(), Store()
    steady, first = never.start(), broken.start()
    for each in frames:
        steady.step([each])
    for each in frames[:cut]:
        first.step([each])
    second = broken.start()
    for each in frames[cut:]:
        second.step([each])
    assert [(w.carrier.key, w.live, w.carrier.kv.tobytes()) for w in broken.writes] == [
        (w.carrier.key, w.live, w.carrier.kv.tobytes()) for w in never.writes
    ]
    assert first.stale + second.stale == steady.stale
    written = [w.carrier.key.at_ms for w in broken.writes]
    assert written == sorted(set(written))  # no duplicate


def test_the_live_times_written_are_the_memory_after_the_frame_and_bounded() -> None:
    store = Store()
    prefiller = store.start()
    for at in range(10):
        prefiller.step([frame(at, shade=25 * at)])
    for write in store.writes:
        assert write.live[-1] == write.carrier.key.at_ms
        assert len(write.live) <= LIMIT
        assert list(write.live) == sorted(write.live)


def test_a_memory_is_recalled_once_and_again_when_it_was_forgotten() -> None:
    store = Store()
    prefiller = store.start()
    for at in range(3):
        prefiller.step([frame(at)])
    assert store.recalls == ["gate"]
    prefiller.keep_only({"a camera that it never had": 1})
    prefiller.step([frame(3)])
    assert store.recalls == ["gate", "gate"]
    assert store.writes[-1].live[-1] == 3


def test_a_memory_that_cannot_be_recalled_now_is_recalled_later_and_nothing_is_made_up() -> None:
    store = Store()
    store.start().step([frame(1)])
    restarted = store.start()
    store.away = True
    assert restarted.step([frame(2)]) == []
    assert (len(store.writes), restarted.skipped) == (1, 1)
    store.away = False
    restarted.step([frame(2)])  # the very same frame may come again
    assert store.writes[-1].live == (1, 2)
    assert restarted.stale == 0


def test_a_pass_that_fails_leaves_the_memories_as_they_were() -> None:
    model, store = Model(), Store()
    prefiller = store.start(model)
    prefiller.step([frame(1)])
    model.fails = True
    with pytest.raises(RuntimeError):
        prefiller.step([frame(2)])
    model.fails = False
    prefiller.step([frame(2)])
    assert [w.live for w in store.writes] == [(1,), (1, 2)]


def test_the_picture_kept_is_the_frame() -> None:
    store = Store()
    store.start().step([frame(200, shade=40)])
    picture = np.asarray(Image.open(io.BytesIO(store.writes[0].picture)), np.int16)
    assert picture.shape == (4 * CELL, 4 * CELL, 3)
    assert np.abs(picture[2 * CELL :] - np.array([200, 40, 90])).max() < 12


def test_no_frames_are_no_work() -> None:
    model, store = Model(), Store()
    assert store.start(model).step([]) == []
    assert model.batches == []


def test_a_camera_is_claimed_before_it_is_recalled_and_anew_when_its_memory_was_dropped() -> None:
    store, calls = Store(), list[str]()

    def claim(camera_id: str, grant: int) -> Claim:
        calls.append(f"claim {len(store.recalls)}")
        return Claim(epoch=len(calls), generation="g")

    prefiller = Prefiller(Model(), store.live, store.writes.append, claim)
    for at_ms in (10, 11):
        prefiller.step([frame(at_ms)])
    prefiller.drop("gate")
    prefiller.step([frame(12)])
    assert calls == ["claim 0", "claim 1"] and store.recalls == ["gate", "gate"]
    assert [write.claim.epoch for write in store.writes if write.claim] == [1, 1, 2]


def test_frames_of_a_camera_that_another_prefiller_has_are_skipped_and_counted() -> None:
    def claim(camera_id: str, grant: int) -> Claim:
        if camera_id == "gate":
            raise Superseded("another prefiller has it")
        return Claim(epoch=1, generation="g")

    store = Store()
    prefiller = Prefiller(Model(), store.live, store.writes.append, claim)
    made = prefiller.step([frame(10, "gate"), frame(10, "dock")])
    assert [carrier.key.camera_id for carrier in made] == ["dock"] and prefiller.skipped == 1


def test_what_shows_nothing_new_repeats_the_last_that_did_for_a_minute() -> None:
    store = Store()
    prefiller = store.start()
    times = [0, 8_000, 16_000, REPEAT_MS, REPEAT_MS + 8_000, REPEAT_MS + 16_000]
    for at_ms in times:
        prefiller.step([frame(at_ms, shows=1), frame(at_ms, "dock")])
    gate = [w for w in store.writes if w.carrier.key.camera_id == "gate"]
    again = REPEAT_MS + 8_000
    assert [w.repeats for w in gate] == [None, 0, 0, 0, None, again]
    assert [w.live for w in gate] == [(0,)] * 4 + [(0, again)] * 2  # a repeat is none of the carriers that frames attend to
    assert [w.carrier.key.at_ms for w in gate] == times and all(w.picture for w in gate)
    assert [w.repeats for w in store.writes if w.carrier.key.camera_id == "dock"] == [None] * len(times)


def test_what_changes_slowly_is_compared_with_what_was_kept_and_not_with_the_frame_before() -> None:
    store = Store()
    prefiller = store.start()
    for step in range(12):
        slowly = frame(step, shows=1)
        image = slowly.image.copy()
        image[CELL : 2 * CELL, :, 2] += 2 * step  # six levels are a change
        prefiller.step([replace(slowly, image=image)])
    assert [w.repeats for w in store.writes] == [None, 0, 0, 0, None, 4, 4, 4, None, 8, 8, 8]


def test_a_restarted_prefiller_repeats_nothing_that_it_has_not_seen_and_knows_until_when_it_was_kept() -> None:
    store = Store()
    store.start().step([frame(0, shows=1)])
    reaching = [replace(store.writes[0].carrier, span=TimeRange(start_ms=0, end_ms=16))]
    restarted = Prefiller(Model(), lambda camera_id: reaching, store.writes.append)
    assert restarted.step([frame(16, shows=1)]) == [] and restarted.stale == 1
    restarted.step([frame(24, shows=1)])
    assert (store.writes[-1].repeats, store.writes[-1].live) == (None, (0, 24))
