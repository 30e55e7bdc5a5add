"""Who comes through a site: visits drawn at random, each a closed formula of time.

Distances are pixels of the 640x360 picture, times are seconds of the site's clock.
"""

import math
from dataclasses import dataclass
from random import Random

WIDTH, HEIGHT = 640, 360
CAMERAS = ("gate", "yard", "dock", "lobby")
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
MOVERS = ("person", "car", "truck", "bicycle")
THINGS = ("bag", "box")
SIZES = {"person": (38, 106), "car": (150, 58), "truck": (230, 104), "bicycle": (96, 104), "bag": (38, 34), "box": (44, 38)}

Lanes = dict[str, dict[str, tuple["Lane", ...]]]  # of each camera: where people and vehicles go


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
class Visit:
    """Who comes together, and what they leave."""

    movers: tuple[Mover, ...]
    things: tuple[Thing, ...] = ()
    meets_at: float | None = None


def draw_visit(r: Random, lanes: Lanes, name: str, starts: float) -> Visit:
    """Mostly somebody passes through; now and then people meet, or something is left and fetched."""
    plan = r.choices((_passes, _meets, _leaves), (0.82, 0.08, 0.10))[0]
    return plan(r, lanes, name, starts)


def _passes(r: Random, lanes: Lanes, name: str, starts: float) -> Visit:
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
        leg = _leg(r, lanes, kind, camera, at)
        legs.append(leg)
        at = leg.ends(SIZES[kind][0] * leg.lane.scale) + r.uniform(1, 6)
    return Visit(movers=(Mover(id=name, kind=kind, colour=r.choice(COLOURS), legs=tuple(legs)),))


def _leg(r: Random, lanes: Lanes, kind: str, camera: str, at: float) -> Leg:
    speed = {"person": (42, 75), "car": (65, 120), "truck": (60, 100), "bicycle": (60, 110)}[kind]
    halts = 0.55 if (kind, camera) == ("truck", "dock") else 0.15
    pause = r.uniform(4, 14) if r.random() < halts else 0.0
    return Leg(
        camera=camera,
        starts=at,
        lane=r.choice(lanes[camera]["people" if kind == "person" else "vehicles"]),
        heading=r.choice((-1, 1)),
        speed=r.uniform(*speed),
        pause_x=r.uniform(200, 440),
        pause_s=pause,
    )


def _meets(r: Random, lanes: Lanes, name: str, starts: float) -> Visit:
    camera, x, talk = r.choice(CAMERAS), r.uniform(220, 420), r.uniform(5, 12)
    lane = r.choice(lanes[camera]["people"])
    movers = []
    for heading in (1, -1):
        leg = Leg(camera=camera, starts=starts, lane=lane, heading=heading, speed=60, pause_x=x - 28 * heading, pause_s=talk)
        movers.append(Mover(id=f"{name}.{heading}", kind="person", colour=r.choice(COLOURS), legs=(leg,)))
    wide = SIZES["person"][0] * lane.scale
    return Visit(movers=tuple(movers), meets_at=starts + (max(x - 28, WIDTH - x - 28) + wide / 2) / 60)


def _leaves(r: Random, lanes: Lanes, name: str, starts: float) -> Visit:
    camera, x = r.choice(CAMERAS), r.uniform(120, 520)
    lane, kind = r.choice(lanes[camera]["people"]), r.choice(THINGS)
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
    other = Mover(id=f"{name}.taker", kind="person", colour=r.choice(COLOURS), legs=(taker,))
    return Visit(movers=(owner, other), things=(thing,))


def draw_lanes(camera: str, r: Random) -> dict[str, tuple[Lane, ...]]:
    """Where people and vehicles go, a little different on every site."""
    shift, grow = r.uniform(-8, 8), r.uniform(0.94, 1.08)

    def lane(y: float, scale: float) -> Lane:
        return Lane(y=y + shift, scale=scale * grow)

    if camera == "lobby":
        return {"people": (lane(330, 1.55), lane(300, 1.4), lane(272, 1.25)), "vehicles": (lane(300, 1.0),)}
    return {"people": (lane(345, 1.2), lane(222, 0.85)), "vehicles": (lane(316, 1.12), lane(262, 0.92))}


def poisson(r: Random, mean: float) -> int:
    """Knuth's method: `random` has none of its own."""
    limit, n, p = math.exp(-mean), 0, r.random()
    while p > limit:
        n, p = n + 1, p * r.random()
    return n
