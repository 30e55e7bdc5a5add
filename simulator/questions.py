"""Questions about what a site's cameras showed, with the true answers and the pictures that show them.

The same code makes the demo's questions, the tests', the training's and the benchmarks'. An answer is in the model's own
words: `<where>` and `<when>` stand for the camera and the time of the evidence, which are facts of the memory, never
generated. Questions whose truth hangs on something barely visible are not asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from pipeline.grounding import NOT_SEEN, WHEN, WHERE
from simulator.world import COLOURS, MOVERS, Sighting, Site

CLEAR, HINT = 0.55, 0.08  # visible parts: plain to see, and enough to argue about
NUMBERS = ("none", "one", "two", "three", "four")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiz:
    """A question with its true answer; `evidence` are the indices of the shots that show it, in order of time."""

    family: str
    text: str
    answer: str
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Thing:
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

    def clear(self, thing: Thing, where: Sequence[int] | None = None) -> list[int]:
        """The shots that plainly show it."""
        return [i for i in self._range(where) if any(thing.matches(s) and s.visible >= CLEAR for s in self.shots[i].sightings)]

    def arguable(self, thing: Thing, where: Sequence[int] | None = None) -> bool:
        """Whether some shot shows only part of it while none plainly shows that same one."""
        plain = {s.id for i in self._range(where) for s in self.shots[i].sightings if s.visible >= CLEAR}
        return any(
            thing.matches(s) and HINT <= s.visible < CLEAR and s.id not in plain
            for i in self._range(where)
            for s in self.shots[i].sightings
        )

    def known(self, thing: Thing, where: Sequence[int] | None = None) -> bool:
        """Whether it is beyond argument that it was, or was not, there."""
        return bool(self.clear(thing, where)) or not self.arguable(thing, where)

    def ids(self, thing: Thing, where: Sequence[int] | None = None) -> dict[str, list[int]]:
        """Each one of these plainly seen, and in which shots."""
        found: dict[str, list[int]] = {}
        for i in self._range(where):
            for s in self.shots[i].sightings:
                if thing.matches(s) and s.visible >= CLEAR:
                    found.setdefault(s.id, []).append(i)
        return found

    def present(self, where: Sequence[int] | None = None) -> list[Thing]:
        """Kinds with colours plainly seen."""
        seen = {(s.kind, s.colour) for i in self._range(where) for s in self.shots[i].sightings if s.visible >= CLEAR and s.colour}
        return [Thing(*pair) for pair in sorted(seen)]

    def _range(self, where: Sequence[int] | None) -> Sequence[int]:
        return range(len(self.shots)) if where is None else where


def _pick(w: Watch, r: Random, where: Sequence[int] | None = None, seen: float = 0.55) -> Thing:
    """Something that was there, or something that could be mistaken for what was."""
    here = w.present(where)
    if here and r.random() < seen:
        thing = r.choice(here)
        return Thing(thing.kind) if r.random() < 0.25 else thing
    if here and r.random() < 0.6:
        near = r.choice(here)
        return Thing(near.kind, r.choice(COLOURS)) if r.random() < 0.6 else Thing(r.choice(MOVERS), near.colour)
    return Thing(r.choice(MOVERS), r.choice(("", *COLOURS)))


def _place(w: Watch, r: Random) -> str:
    """Sometimes the camera's name is in the question; which cameras are meant has been settled before."""
    return f" at the {w.cameras[0]}" if len(w.cameras) == 1 and r.random() < 0.5 else ""


def presence_now(w: Watch, r: Random) -> Quiz | None:
    """Is it there now?"""
    thing = _pick(w, r, w.now)
    if not w.known(thing, w.now):
        return None
    a, place = article(thing.words(r)), _place(w, r)
    text = r.choice(
        (
            f"Is there {a}{place} now?",
            f"Do you see {a}{place} right now?",
            f"Is {a} visible{place} at the moment?",
            f"Is it true now that {a} is {place.strip() or 'there'}?",
            f"Is it true now that {a} is {place.strip() or 'there'}?",
        )
    )
    evidence = tuple(w.clear(thing, w.now))
    return Quiz(family="presence", text=text, answer="yes" if evidence else "no", evidence=evidence)


def presence(w: Watch, r: Random) -> Quiz | None:
    """Was it there at any time?"""
    thing = _pick(w, r)
    if not w.known(thing):
        return None
    a, place = article(thing.words(r)), _place(w, r)
    text = r.choice(
        (
            f"Was there {a}{place}?",
            f"Did {a} come by{place}?",
            f"Have you seen {a}{place}?",
            f"Has {a} been seen{place}?",
            f"Did {a} pass{place}?",
        )
    )
    evidence = tuple(w.clear(thing))
    return Quiz(family="presence", text=text, answer="yes" if evidence else "no", evidence=evidence)


def colour(w: Watch, r: Random) -> Quiz | None:
    """Which colour was the only one of its kind?"""
    kinds = [k for k in MOVERS if len({t.colour for t in w.present() if t.kind == k}) <= 1 and w.known(Thing(k))]
    seen = [k for k in kinds if w.clear(Thing(k))]
    pool = seen if seen and r.random() < 0.85 else [k for k in kinds if k not in seen]
    if not pool:
        return None
    thing = Thing(r.choice(pool))
    if any(thing.matches(s) and HINT <= s.visible < CLEAR and s.colour != _only_colour(w, thing) for x in w.shots for s in x.sightings):
        return None
    noun, place = the(thing.words(r)), _place(w, r)
    worn = thing.kind == "person"
    text = r.choice(
        (
            f"What colour was {noun}{' wearing' if worn else ''}{place}?",
            f"Which colour did {noun} {'wear' if worn else 'have'}{place}?",
            f"What was the colour of {noun}{place}?",
        )
    )
    evidence = tuple(w.clear(thing))
    if not evidence:
        return Quiz(family="not seen", text=text, answer=NOT_SEEN)
    return Quiz(family="colour", text=text, answer=_only_colour(w, thing), evidence=evidence)


def _only_colour(w: Watch, thing: Thing) -> str:
    return next((t.colour for t in w.present() if t.kind == thing.kind), "")


def count_now(w: Watch, r: Random) -> Quiz | None:
    """How many are there now?"""
    return _count(w, r, w.now, ("How many {} are there{} now?", "How many {} do you see{} right now?", "Count the {}{} at the moment."))


def count(w: Watch, r: Random) -> Quiz | None:
    """How many different ones came by?"""
    return _count(w, r, None, ("How many {} came by{}?", "How many different {} were there{}?", "How many {} have you seen{}?"))


def _count(w: Watch, r: Random, where: Sequence[int] | None, templates: tuple[str, ...]) -> Quiz | None:
    kind = r.choice([t.kind for t in w.present(where)] or MOVERS) if r.random() < 0.8 else r.choice(MOVERS)
    thing = Thing(kind)
    found = w.ids(thing, where)
    if len(w.cameras) > 1 or w.arguable(thing, where) or len(found) >= len(NUMBERS):
        return None
    text = r.choice(templates).format(r.choice(PLURALS[kind]), _place(w, r))
    evidence = tuple(sorted({i for shots in found.values() for i in shots}))
    return Quiz(family="count", text=text, answer=NUMBERS[len(found)], evidence=evidence)


def direction(w: Watch, r: Random) -> Quiz | None:
    """Which way did it go? Asked when all that match went the same way, and were seen to move."""
    thing = _pick(w, r, seen=0.9)
    if not w.known(thing):
        return None
    headings = {s.heading for x in w.shots for s in x.sightings if thing.matches(s) and s.visible >= HINT}
    evidence = tuple(w.clear(thing))
    if len(headings) > 1 or len(evidence) == 1:
        return None
    noun, place = the(thing.words(r)), _place(w, r)
    text = r.choice(
        (f"Which way did {noun} go{place}?", f"In which direction was {noun} moving{place}?", f"Was {noun} going left or right{place}?")
    )
    if not evidence:
        return Quiz(family="not seen", text=text, answer=NOT_SEEN)
    return Quiz(family="direction", text=text, answer="right" if headings == {1} else "left", evidence=evidence)


def order(w: Watch, r: Random) -> Quiz | None:
    """Which of two came first?"""
    here = [t for t in w.present() if not (w.shots[0].sightings and t in w.present((0,)))]
    if len(here) < 2:
        return None
    one, other = r.sample(here, 2)
    first, second = w.clear(one), w.clear(other)
    if w.arguable(one) or w.arguable(other):
        return None
    if w.shots[second[0]].at - w.shots[first[0]].at < 2.0 and w.shots[first[0]].at - w.shots[second[0]].at < 2.0:
        return None
    earlier = first[0] < second[0]
    a, b, place = the(one.words(r)), the(other.words(r)), _place(w, r)
    evidence = tuple(sorted({*first[:2], *second[:2]}))
    if r.random() < 0.4:
        text = r.choice((f"Did {a} come before {b}{place}?", f"Was {a} here earlier than {b}{place}?"))
        return Quiz(family="order", text=text, answer="yes" if earlier else "no", evidence=evidence)
    text = r.choice(
        (f"Which came first{place}, {a} or {b}?", f"What was here first{place}, {a} or {b}?", f"Which was seen first, {a} or {b}?")
    )
    return Quiz(family="order", text=text, answer=a if earlier else b, evidence=evidence)


def camera(w: Watch, r: Random) -> Quiz | None:
    """Which camera saw it last?"""
    text = ("Which camera saw {} last?", "Where was {} last seen?", "Where did you last see {}?", "On which camera was {} last?")
    return _last(w, r, "camera", WHERE, text) if len(w.cameras) > 1 else None


def when(w: Watch, r: Random) -> Quiz | None:
    """When was it last seen?"""
    text = ("When did you last see {}?", "How long ago was {} here?", "When was {} last seen?", "How long ago did you see {}?")
    return _last(w, r, "how long ago", WHEN, text)


def _last(w: Watch, r: Random, family: str, token: str, templates: tuple[str, ...]) -> Quiz | None:
    thing = _pick(w, r, seen=0.85)
    evidence = w.clear(thing)
    late = [i for i in range(evidence[-1] + 1 if evidence else 0, len(w.shots)) if w.shots[i].camera]
    if not w.known(thing) or w.arguable(thing, late) and not evidence:
        return None
    phrase = thing.words(r)
    text = r.choice(templates).format(the(phrase) if thing.colour else article(phrase))
    if not evidence:
        return Quiz(family="not seen", text=text, answer=NOT_SEEN)
    final = w.shots[evidence[-1]]
    beside = [i for i in late if any(thing.matches(s) and s.visible >= HINT for s in w.shots[i].sightings)]
    if any(w.shots[i].camera != final.camera for i in beside) or any(w.shots[i].at - final.at > 2.5 for i in beside):
        return None
    kept = [i for i in evidence if w.shots[i].camera == final.camera and final.at - w.shots[i].at <= 1.6]
    return Quiz(family=family, text=text, answer=token, evidence=tuple(kept))


def left(w: Watch, r: Random) -> Quiz | None:
    """Was something left behind?"""
    seen = {k: w.clear(Thing(k)) for k in ("bag", "box")}
    if any(w.arguable(Thing(k)) for k in seen):
        return None
    names = [f"a {k}" for k, shots in seen.items() if shots]
    place = _place(w, r)
    text = r.choice(
        (
            f"Was anything left behind{place}?",
            f"What was left behind{place}?",
            f"Did anybody leave something{place}?",
            f"What is lying around{place}?",
        )
    )
    evidence = tuple(sorted({i for shots in seen.values() for i in shots}))
    return Quiz(family="left", text=text, answer=" and ".join(names) or "nothing", evidence=evidence)


def describe(w: Watch, r: Random) -> Quiz | None:
    """What is there now? From left to right; one camera only."""
    if len(w.cameras) > 1 or any(HINT <= s.visible < CLEAR for s in w.shots[-1].sightings) and r.random() < 0.5:
        return None
    shown = sorted((s for s in w.shots[-1].sightings if s.visible >= CLEAR), key=lambda s: s.x)[:4]
    parts = [article(Thing(s.kind, s.colour).words(_Plain())) if s.colour else f"a {s.kind}" for s in shown]
    text = r.choice(("What do you see now?", "What is there right now?", "Describe what you see.", "What is happening now?"))
    return Quiz(family="describe", text=text, answer=", ".join(parts) or "nothing", evidence=(len(w.shots) - 1,) if shown else ())


def detail(w: Watch, r: Random) -> Quiz | None:
    """Everything now with its place (1 left to 8 right) and heading: what teaches a carrier to hold a frame."""
    if len(w.cameras) > 1:
        return None
    shown = sorted((s for s in w.shots[-1].sightings if s.visible >= 0.35), key=lambda s: s.x)[:5]
    told = len(w.shots) > 1  # which way a person walks cannot be told from one picture
    parts = []
    for s in shown:
        place = 1 + min(7, max(0, int(s.x // 80)))
        heading = {1: " right", -1: " left", 0: ""}[s.heading if told or s.kind != "person" else 0]
        parts.append(f"{s.colour} {s.kind} {place}{heading}".strip())
    return Quiz(family="detail", text="Detail.", answer=", ".join(parts) or "nothing", evidence=(len(w.shots) - 1,) if shown else ())


class _Plain(Random):
    """Always the first choice of words: descriptions are worded in one way."""

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return seq[0]


FAMILIES: tuple[Callable[[Watch, Random], Quiz | None], ...] = (
    presence_now, presence, colour, count_now, count, direction, order, camera, when, left,
)  # fmt: skip


def ask(w: Watch, r: Random, family: Callable[[Watch, Random], Quiz | None], *, tries: int = 6) -> Quiz | None:
    """A question of one family, or None where the watch gives no cause for one."""
    return next((quiz for _ in range(tries) if (quiz := family(w, r))), None)


def watch(site: Site, cameras: Sequence[str], times: Sequence[float]) -> Watch:
    """The truth of some cameras at some times."""
    return Watch([Shot(camera=c, at=t, sightings=site.sightings(c, t)) for c in cameras for t in times])
