"""What some cameras showed at some times, and what may be said of it beyond argument."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from simulator.world import Sighting, Site

CLEAR, HINT = 0.55, 0.08  # visible parts: plain to see, and enough to argue about
NOUNS = {
    "person": ("person", "person", "somebody", "someone", "human"),
    "car": ("car", "car", "automobile"),
    "truck": ("truck", "truck", "lorry"),
    "bicycle": ("bicycle", "bike", "cyclist"),
}
PLURALS = {"person": ("people", "persons"), "car": ("cars",), "truck": ("trucks", "lorries"), "bicycle": ("bicycles", "cyclists", "bikes")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One remembered picture: which camera, when (site seconds), and what was truly to be seen."""

    camera: str
    at: float
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a question is about: a kind, and a colour or any."""

    kind: str
    colour: str = ""

    def matches(self, s: Sighting) -> bool:
        """Whether a sighting is one of these."""
        return s.kind == self.kind and self.colour in ("", s.colour)

    def words(self, r: Random) -> str:
        """A noun phrase without an article."""
        noun = r.choice(NOUNS[self.kind])
        if not self.colour:
            return noun
        if self.kind == "person":
            worn = r.choice(("in {}", "in {}", "wearing {}", "in a {} jacket", "dressed in {}")).format(self.colour)
            return f"{noun} {worn}"
        if noun == "cyclist":
            return f"cyclist in {self.colour}"
        return f"{self.colour} {noun}"


def article(phrase: str) -> str:
    """The phrase with a/an where English wants one."""
    if phrase.startswith(("somebody", "someone")):
        return phrase
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def the(phrase: str) -> str:
    """The phrase with its definite article."""
    return f"the {phrase.replace('somebody', 'person').replace('someone', 'person')}"


class Watch:
    """Shots in order of time, and what may be said of them."""

    def __init__(self, shots: Sequence[Shot]) -> None:
        self.shots = sorted(shots, key=lambda s: s.at)
        self.cameras = sorted({s.camera for s in shots})
        last = {s.camera: i for i, s in enumerate(self.shots)}
        self.now = tuple(sorted(last.values()))

    def clear(self, subject: Subject, where: Sequence[int] | None = None) -> list[int]:
        """The shots that plainly show it."""
        return [i for i in self._range(where) if any(subject.matches(s) and s.visible >= CLEAR for s in self.shots[i].sightings)]

    def arguable(self, subject: Subject, where: Sequence[int] | None = None) -> bool:
        """Whether some shot shows only part of it while none plainly shows that same one."""
        plain = {s.id for i in self._range(where) for s in self.shots[i].sightings if s.visible >= CLEAR}
        return any(
            subject.matches(s) and HINT <= s.visible < CLEAR and s.id not in plain
            for i in self._range(where)
            for s in self.shots[i].sightings
        )

    def known(self, subject: Subject, where: Sequence[int] | None = None) -> bool:
        """Whether it is beyond argument that it was, or was not, there."""
        return bool(self.clear(subject, where)) or not self.arguable(subject, where)

    def ids(self, subject: Subject, where: Sequence[int] | None = None) -> dict[str, list[int]]:
        """Each one of these plainly seen, and in which shots."""
        found: dict[str, list[int]] = {}
        for i in self._range(where):
            for s in self.shots[i].sightings:
                if subject.matches(s) and s.visible >= CLEAR:
                    found.setdefault(s.id, []).append(i)
        return found

    def present(self, where: Sequence[int] | None = None) -> list[Subject]:
        """Kinds with colours plainly seen."""
        seen = {(s.kind, s.colour) for i in self._range(where) for s in self.shots[i].sightings if s.visible >= CLEAR and s.colour}
        return [Subject(*pair) for pair in sorted(seen)]

    def _range(self, where: Sequence[int] | None) -> Sequence[int]:
        return range(len(self.shots)) if where is None else where


def watch(site: Site, cameras: Sequence[str], times: Sequence[float]) -> Watch:
    """The truth of some cameras at some times."""
    return watch_at(site, dict.fromkeys(cameras, times))


def watch_at(site: Site, times: Mapping[str, Sequence[float]]) -> Watch:
    """The truth of cameras at times of their own: of the very pictures that were taken."""
    return Watch([Shot(camera=c, at=t, sightings=site.sightings(c, t)) for c, each in times.items() for t in each])
