"""A seeded site with one clock: what every camera truly shows at any time, and the log of what happened.

Every position is a closed formula of time, so any moment of any day can be asked for without playing what came before.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from simulator.visits import CAMERAS, HEIGHT, SIZES, WIDTH, Leg, Mover, Thing, Visit, draw_lanes, draw_visit, poisson

BLOCK_S = 30.0  # visits are drawn block by block
LONGEST_VISIT_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What is to be seen of one object in one camera at one time."""

    id: str
    kind: str
    colour: str  # "" for things left behind
    heading: int  # 0 for things left behind
    x: float
    y: float
    scale: float
    moving: bool
    visible: float  # 0..1: the part of it inside the picture and not behind nearer things

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels, not clipped."""
        w, h = SIZES[self.kind]
        return self.x - w * self.scale / 2, self.y - h * self.scale, self.x + w * self.scale / 2, self.y


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An entry of the site's true log."""

    at: float
    camera: str
    what: str  # "enters" | "leaves" | "leaves behind" | "meets"
    id: str
    kind: str
    colour: str


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _visible(box: tuple[float, float, float, float], nearer: list[tuple[float, float, float, float]]) -> float:
    """The share of `box` inside the picture, less its largest cover by a nearer box."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    inside = _overlap(box, (0, 0, WIDTH, HEIGHT))
    hidden = max((_overlap(box, other) for other in nearer), default=0.0)
    return max(0.0, inside - hidden) / area


class Site:
    """A simulated site. The same seed and time give the same world on every machine."""

    def __init__(self, seed: int, *, traffic: float | None = None) -> None:
        self.seed = seed
        r = Random(f"site {seed}")
        self.traffic = traffic if traffic is not None else r.uniform(0.35, 1.5)
        self.day_phase = r.random()
        self.lanes = {camera: draw_lanes(camera, r) for camera in CAMERAS}
        self._block = lru_cache(maxsize=256)(self._draw_block)

    def light(self, t: float) -> float:
        """Daylight, 1 at noon to 0.4 at dusk; the site's day lasts 40 minutes."""
        wave = 0.5 + 0.5 * math.cos(2 * math.pi * (t / 2400 + self.day_phase))
        return 0.4 + 0.6 * min(1.0, 1.6 * wave)

    def sightings(self, camera: str, t: float) -> tuple[Sighting, ...]:
        """Everything to be seen at time t, far to near."""
        found = [_see_thing(thing) for thing in self._things(t) if thing.camera == camera and thing.left_at <= t < thing.gone_at]
        for mover in self._movers(t):
            width, _ = SIZES[mover.kind]
            for leg in mover.legs:
                wide = width * leg.lane.scale
                if leg.camera == camera and leg.starts <= t < leg.ends(wide):
                    found.append(_see_mover(mover, leg, t, wide))
        found.sort(key=lambda s: (s.y, s.id))
        boxes = [s.box for s in found]
        return tuple(replace(s, visible=_visible(s.box, boxes[i + 1 :])) for i, s in enumerate(found))

    def events(self, start: float, end: float) -> list[Event]:
        """The true log of [start, end), in order of time."""
        log: list[Event] = []
        for t in range(int(start // BLOCK_S) - int(LONGEST_VISIT_S // BLOCK_S), int(end // BLOCK_S) + 1):
            log.extend(event for visit in self._block(t) for event in _events(visit))
        return sorted((e for e in log if start <= e.at < end), key=lambda e: (e.at, e.id))

    def _blocks(self, t: float) -> Iterator[int]:
        last = int(t // BLOCK_S)
        yield from range(last - int(LONGEST_VISIT_S // BLOCK_S), last + 1)

    def _movers(self, t: float) -> Iterator[Mover]:
        for block in self._blocks(t):
            yield from (mover for visit in self._block(block) for mover in visit.movers)

    def _things(self, t: float) -> Iterator[Thing]:
        for block in self._blocks(t):
            yield from (thing for visit in self._block(block) for thing in visit.things)

    def _draw_block(self, block: int) -> tuple[Visit, ...]:
        r = Random(f"site {self.seed} block {block}")
        visits = []
        for i in range(poisson(r, 4.2 * self.traffic)):
            starts = (block + r.random()) * BLOCK_S
            visits.append(draw_visit(r, self.lanes, f"{block}.{i}", starts))
        return tuple(visits)


def _see_mover(mover: Mover, leg: Leg, t: float, wide: float) -> Sighting:
    return Sighting(
        id=mover.id,
        kind=mover.kind,
        colour=mover.colour,
        heading=leg.heading,
        x=leg.x(t, wide),
        y=leg.lane.y,
        scale=leg.lane.scale,
        moving=not leg.paused(t, wide),
        visible=0.0,
    )


def _see_thing(thing: Thing) -> Sighting:
    return Sighting(
        id=thing.id, kind=thing.kind, colour="", heading=0, x=thing.x, y=thing.lane.y + 2, scale=thing.lane.scale, moving=False, visible=0.0
    )


def _events(visit: Visit) -> Iterator[Event]:
    for mover in visit.movers:
        for leg in mover.legs:
            told = {"camera": leg.camera, "id": mover.id, "kind": mover.kind, "colour": mover.colour}
            yield Event(at=leg.starts, what="enters", **told)
            yield Event(at=leg.ends(SIZES[mover.kind][0] * leg.lane.scale), what="leaves", **told)
            if visit.meets_at is not None:
                yield Event(at=visit.meets_at, what="meets", **told)
    for thing in visit.things:
        yield Event(at=thing.left_at, camera=thing.camera, what="leaves behind", id=thing.id, kind=thing.kind, colour="")
