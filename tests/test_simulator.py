"""The simulated site is one world whose log, sightings and pictures agree."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.render import render
from simulator.visits import CAMERAS, HEIGHT, MOVERS, THINGS, WIDTH
from simulator.world import Event, Sighting, Site

SEEDS = st.integers(0, 10_000)
MOMENTS = st.floats(0, 86_400)
few = settings(deadline=None, max_examples=25)


# The world


@few
@given(SEEDS, MOMENTS)
def test_the_same_seed_gives_the_same_world_whatever_was_asked_before(seed: int, t: float) -> None:
    one, other = Site(seed), Site(seed)
    for earlier in (t + 500, t - 900, t + 3):
        other.sightings("gate", earlier)
    assert [one.sightings(c, t) for c in CAMERAS] == [other.sightings(c, t) for c in reversed(CAMERAS)][::-1]
    assert one.events(t, t + 60) == other.events(t, t + 60)
    assert one.light(t) == other.light(t)


def test_another_seed_is_another_world() -> None:
    logs = [Site(seed).events(0, 300) for seed in range(8)]
    assert all(a != b for i, a in enumerate(logs) for b in logs[:i])


@few
@given(SEEDS, MOMENTS, st.sampled_from(CAMERAS))
def test_what_is_seen_is_well_formed_and_far_things_come_first(seed: int, t: float, camera: str) -> None:
    seen = Site(seed).sightings(camera, t)
    assert [s.y for s in seen] == sorted(s.y for s in seen)
    assert len({s.id for s in seen}) == len(seen)
    for s in seen:
        assert 0 <= s.visible <= 1
        assert (s.kind in THINGS) == (s.colour == "") == (s.heading == 0)
        assert s.kind in (*MOVERS, *THINGS)
        left, top, right, bottom = s.box
        if right <= 0 or left >= WIDTH or bottom <= 0 or top >= HEIGHT:
            assert s.visible == 0
    if seen:  # nothing is in front of the nearest: it shows what is inside the picture
        left, top, right, bottom = seen[-1].box
        inside = (min(right, WIDTH) - max(left, 0)) * (min(bottom, HEIGHT) - max(top, 0))
        assert seen[-1].visible == pytest.approx(max(0.0, inside) / ((right - left) * (bottom - top)))


def visits(events: Sequence[Event]) -> Iterator[tuple[Event, Event]]:
    """Every entering with its leaving."""
    entered: dict[tuple[str, str], Event] = {}
    for event in events:
        if event.what == "enters":
            entered[event.camera, event.id] = event
        elif event.what == "leaves" and (event.camera, event.id) in entered:
            yield entered.pop((event.camera, event.id)), event


def ids(site: Site, camera: str, t: float) -> dict[str, Sighting]:
    return {s.id: s for s in site.sightings(camera, t)}


@few
@given(SEEDS, MOMENTS)
def test_a_mover_that_entered_is_seen_until_it_leaves_and_not_a_moment_longer(seed: int, start: float) -> None:
    site = Site(seed, traffic=1.0)
    for enters, leaves in visits(site.events(start, start + 120)):
        assert enters.at < leaves.at
        for part in (0.0, 0.01, 0.5, 0.99):
            s = ids(site, enters.camera, enters.at + part * (leaves.at - enters.at))[enters.id]
            assert (s.kind, s.colour) == (enters.kind, enters.colour)
        for outside in (enters.at - 1e-3, leaves.at, leaves.at + 1e-3):
            assert enters.id not in ids(site, enters.camera, outside)
        # It comes in at one edge and goes out at the other: neither is a sudden appearance.
        assert ids(site, enters.camera, enters.at)[enters.id].visible == pytest.approx(0, abs=1e-6)
        assert ids(site, enters.camera, leaves.at - 1e-6)[enters.id].visible == pytest.approx(0, abs=1e-3)


@few
@given(SEEDS, MOMENTS)
def test_whatever_is_seen_has_entered_or_was_left_there_according_to_the_log(seed: int, t: float) -> None:
    site = Site(seed, traffic=1.0)
    log = site.events(t - 300, t + 300)
    inside = {(e.camera, e.id) for e, left in visits(log) if e.at <= t < left.at}
    lying = {(e.camera, e.id) for e in log if e.what == "leaves behind" and e.at <= t}
    for camera in CAMERAS:
        for s in site.sightings(camera, t):
            assert (camera, s.id) in (lying if s.kind in THINGS else inside)


@few
@given(SEEDS, MOMENTS)
def test_the_log_of_a_time_is_the_logs_of_its_parts(seed: int, start: float) -> None:
    site = Site(seed)
    log = site.events(start, start + 90)
    assert [e.at for e in log] == sorted(e.at for e in log)
    assert log == [e for a in range(3) for e in site.events(start + 30 * a, start + 30 * (a + 1))] or any(
        abs((e.at - start) % 30) < 1e-6 for e in log
    )


@few
@given(SEEDS, MOMENTS)
def test_what_moves_moves_the_way_it_heads_and_what_stands_stays(seed: int, t: float) -> None:
    site = Site(seed, traffic=1.0)
    for camera in CAMERAS:
        now, soon = ids(site, camera, t), ids(site, camera, t + 0.1)
        for name in now.keys() & soon.keys():
            a, b = now[name], soon[name]
            if a.moving and b.moving:
                assert (b.x - a.x) * a.heading > 0
            elif not a.moving and not b.moving:
                assert b.x == pytest.approx(a.x, abs=1e-6)


# Its pictures


def test_the_same_moment_gives_the_same_picture_and_others_give_others() -> None:
    site = Site(3)
    pictures = {(c, t): render(site, c, t) for c in CAMERAS for t in (1000.0, 1001.0, 1300.0)}
    for (camera, t), picture in pictures.items():
        assert picture.shape == (HEIGHT, WIDTH, 3)
        assert picture.dtype == np.uint8
        assert np.array_equal(picture, render(Site(3), camera, t))
    different = [p.tobytes() for p in pictures.values()] + [render(Site(4), "gate", 1000.0).tobytes()]
    assert len(set(different)) == len(different)


def test_a_picture_shows_what_the_truth_says_is_there() -> None:
    """Where something stands the picture differs from the empty scene, far beyond noise; elsewhere it does not."""
    site, found = Site(11, traffic=1.0), 0
    for camera in CAMERAS:
        empty = next(t for t in np.arange(2000.0, 4000.0, 0.5) if not site.sightings(camera, t))
        base = render(site, camera, empty).astype(np.float32)
        for t in np.arange(empty - 60, empty + 60, 7.3):
            seen = [s for s in site.sightings(camera, t) if s.visible > 0.95]
            if len(site.sightings(camera, t)) != 1 or not seen:
                continue
            change = np.abs(render(site, camera, t) - base).mean(-1)
            left, top, right, bottom = (round(v) for v in seen[0].box)
            inside = change[max(0, top) : bottom, max(0, left) : right].mean()
            outside = np.median(change[40:, :])
            assert inside > outside + 8, (camera, t, seen[0])
            found += 1
    assert found >= 8
