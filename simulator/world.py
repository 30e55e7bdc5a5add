"""A seeded site with one clock: who moves through which camera, when, and what they leave behind.

Every position is a closed formula of time, so any moment of any day can be asked for without playing what came before.
Distances are pixels of the 640x360 picture, times are seconds of the site's clock.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

WIDTH, HEIGHT = 640, 360
CAMERAS = ("gate", "yard", "dock", "lobby")
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
MOVERS = ("person", "car", "truck", "bicycle")
THINGS = ("bag", "box")
SIZES = {"person": (38, 106), "car": (150, 58), "truck": (230, 104), "bicycle": (96, 104), "bag": (38, 34), "box": (44, 38)}

BLOCK_S = 30.0  # visits are drawn block by block
LONGEST_VISIT_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A line on the ground: the height of its feet in the picture, and how large things on it look."""

    y: float
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One crossing of one camera's picture, perhaps with a pause."""

    camera: str
    starts: float
    lane: Lane
    heading: int  # +1 to the right, -1 to the left
    speed: float
    pause_x: float = 0.0
    pause_s: float = 0.0

    def x(self, t: float, width: float) -> float:
        """The middle of the object at time t."""
        entry = -width / 2 if self.heading > 0 else WIDTH + width / 2
        walked = (t - self.starts) * self.speed
        if self.pause_s:
            before = abs(self.pause_x - entry)
            walked = walked if walked < before else max(before, walked - self.pause_s * self.speed)
        return entry + self.heading * walked

    def ends(self, width: float) -> float:
        """When the object has left the picture."""
        return self.starts + (WIDTH + width) / self.speed + self.pause_s

    def paused(self, t: float, width: float) -> bool:
        """Whether it stands still at time t."""
        entry = -width / 2 if self.heading > 0 else WIDTH + width / 2
        reached = self.starts + abs(self.pause_x - entry) / self.speed
        return self.pause_s > 0 and reached <= t < reached + self.pause_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """A person or a vehicle and its way through the site."""

    id: str
    kind: str
    colour: str
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """Something left behind, lying from one time to another."""

    id: str
    kind: str
    camera: str
    x: float
    lane: Lane
    left_at: float
    gone_at: float


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
        self.lanes = {camera: _lanes(camera, r) for camera in CAMERAS}
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
        return tuple(_with_visibility(s, _visible(s.box, boxes[i + 1 :])) for i, s in enumerate(found))

    def events(self, start: float, end: float) -> list[Event]:
        """The true log of [start, end), in order of time."""
        log: list[Event] = []
        for t in range(int(start // BLOCK_S) - int(LONGEST_VISIT_S // BLOCK_S), int(end // BLOCK_S) + 1):
            movers, things = self._block(t)
            for mover in movers:
                log.extend(_mover_events(mover))
            for thing in things:
                log.append(Event(at=thing.left_at, camera=thing.camera, what="leaves behind", id=thing.id, kind=thing.kind, colour=""))
        return sorted((e for e in log if start <= e.at < end), key=lambda e: (e.at, e.id))

    def _blocks(self, t: float) -> Iterator[int]:
        last = int(t // BLOCK_S)
        yield from range(last - int(LONGEST_VISIT_S // BLOCK_S), last + 1)

    def _movers(self, t: float) -> Iterator[Mover]:
        for block in self._blocks(t):
            yield from self._block(block)[0]

    def _things(self, t: float) -> Iterator[Thing]:
        for block in self._blocks(t):
            yield from self._block(block)[1]

    def _draw_block(self, block: int) -> tuple[tuple[Mover, ...], tuple[Thing, ...]]:
        r = Random(f"site {self.seed} block {block}")
        movers: list[Mover] = []
        things: list[Thing] = []
        for i in range(_poisson(r, 4.2 * self.traffic)):
            starts = (block + r.random()) * BLOCK_S
            plan = r.choices((self._passes, self._meets, self._leaves), (0.82, 0.08, 0.10))[0]
            new_movers, new_things = plan(r, f"{block}.{i}", starts)
            movers += new_movers
            things += new_things
        return tuple(movers), tuple(things)

    def _passes(self, r: Random, name: str, starts: float) -> tuple[list[Mover], list[Thing]]:
        kind = r.choices(MOVERS, (0.38, 0.27, 0.2, 0.15))[0]
        route = {
            "person": ("gate", "yard", "lobby"),
            "car": ("gate", "yard", "dock"),
            "truck": ("gate", "yard", "dock"),
            "bicycle": ("gate", "yard", "dock"),
        }[kind]
        route = route if r.random() < 0.5 else route[::-1]  # coming or going
        first = r.randrange(0, 3)
        legs, at = [], starts
        for camera in route[first : first + r.randint(1, 3)]:
            leg = self._leg(r, kind, camera, at)
            legs.append(leg)
            at = leg.ends(SIZES[kind][0] * leg.lane.scale) + r.uniform(1, 6)
        return [Mover(id=name, kind=kind, colour=r.choice(COLOURS), legs=tuple(legs))], []

    def _leg(self, r: Random, kind: str, camera: str, at: float) -> Leg:
        speed = {"person": (42, 75), "car": (65, 120), "truck": (60, 100), "bicycle": (60, 110)}[kind]
        halts = 0.55 if (kind, camera) == ("truck", "dock") else 0.15
        pause = r.uniform(4, 14) if r.random() < halts else 0.0
        return Leg(
            camera=camera,
            starts=at,
            lane=r.choice(self.lanes[camera]["people" if kind == "person" else "vehicles"]),
            heading=r.choice((-1, 1)),
            speed=r.uniform(*speed),
            pause_x=r.uniform(200, 440),
            pause_s=pause,
        )

    def _meets(self, r: Random, name: str, starts: float) -> tuple[list[Mover], list[Thing]]:
        camera, x, talk = r.choice(CAMERAS), r.uniform(220, 420), r.uniform(5, 12)
        lane = r.choice(self.lanes[camera]["people"])
        movers = []
        for heading in (1, -1):
            leg = Leg(camera=camera, starts=starts, lane=lane, heading=heading, speed=60, pause_x=x - 28 * heading, pause_s=talk)
            movers.append(Mover(id=f"{name}.{heading}", kind="person", colour=r.choice(COLOURS), legs=(leg,)))
        return movers, []

    def _leaves(self, r: Random, name: str, starts: float) -> tuple[list[Mover], list[Thing]]:
        camera, x = r.choice(CAMERAS), r.uniform(120, 520)
        lane, kind = r.choice(self.lanes[camera]["people"]), r.choice(THINGS)
        heading, speed = r.choice((-1, 1)), r.uniform(45, 70)
        wide = SIZES["person"][0] * lane.scale
        leg = Leg(camera=camera, starts=starts, lane=lane, heading=heading, speed=speed, pause_x=x, pause_s=2.0)
        left_at = starts + (abs(x - (-wide / 2 if heading > 0 else WIDTH + wide / 2))) / speed + 1.0
        gone_at = left_at + r.uniform(25, 90)
        thing = Thing(id=f"{name}.thing", kind=kind, camera=camera, x=x + 20, lane=lane, left_at=left_at, gone_at=gone_at)
        # Somebody walks up and takes it: the pause of the one who takes it ends the moment it is gone.
        taker_starts = gone_at - 1.0 - (x + wide / 2) / speed
        taker = Leg(camera=camera, starts=taker_starts, lane=lane, heading=1, speed=speed, pause_x=x, pause_s=2.0)
        owner = Mover(id=f"{name}.owner", kind="person", colour=r.choice(COLOURS), legs=(leg,))
        return [owner, Mover(id=f"{name}.taker", kind="person", colour=r.choice(COLOURS), legs=(taker,))], [thing]


def _lanes(camera: str, r: Random) -> dict[str, tuple[Lane, ...]]:
    """Where people and vehicles go, a little different on every site."""
    shift, grow = r.uniform(-8, 8), r.uniform(0.94, 1.08)

    def lane(y: float, scale: float) -> Lane:
        return Lane(y=y + shift, scale=scale * grow)

    if camera == "lobby":
        return {"people": (lane(330, 1.55), lane(300, 1.4), lane(272, 1.25)), "vehicles": (lane(300, 1.0),)}
    return {"people": (lane(345, 1.2), lane(222, 0.85)), "vehicles": (lane(316, 1.12), lane(262, 0.92))}


def _poisson(r: Random, mean: float) -> int:
    """Knuth's method: `random` has none of its own."""
    limit, n, p = math.exp(-mean), 0, r.random()
    while p > limit:
        n, p = n + 1, p * r.random()
    return n


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


def _with_visibility(s: Sighting, visible: float) -> Sighting:
    return Sighting(id=s.id, kind=s.kind, colour=s.colour, heading=s.heading, x=s.x, y=s.y, scale=s.scale, moving=s.moving, visible=visible)


def _mover_events(mover: Mover) -> Iterator[Event]:
    for leg in mover.legs:
        wide = SIZES[mover.kind][0] * leg.lane.scale
        yield Event(at=leg.starts, camera=leg.camera, what="enters", id=mover.id, kind=mover.kind, colour=mover.colour)
        yield Event(at=leg.ends(wide), camera=leg.camera, what="leaves", id=mover.id, kind=mover.kind, colour=mover.colour)
