"""Questions about what a site's cameras showed, with the true answers and the pictures that show them.

The same code makes the demo's questions, the tests', the training's and the benchmarks'. An answer is in the model's own
words: `<where>` and `<when>` stand for the camera and the time of the evidence, which are facts of the memory, never
generated. Questions whose truth hangs on something barely visible are not asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from pipeline.grounding import NOT_SEEN, WHEN, WHERE
from simulator.visits import COLOURS, MOVERS
from simulator.watching import CLEAR, HINT, PLURALS, Subject, Watch, article, the

NUMBERS = ("none", "one", "two", "three", "four")
TOGETHER = 1.0  # seconds: where two cameras saw something to within as much, neither saw it last


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiz:
    """A question with its true answer.

    `evidence` are the indices of the shots that show it, in order of time; `about` is what any shot worth looking at shows.
    """

    family: str
    text: str
    answer: str
    evidence: tuple[int, ...] = ()
    about: tuple[Subject, ...] = ()


def _pick(w: Watch, r: Random, where: Sequence[int] | None, seen: float) -> Subject:
    """Something that was there, or something that could be mistaken for what was."""
    here = w.present(where)
    if here and r.random() < seen:
        subject = r.choice(here)
        return Subject(subject.kind) if r.random() < 0.25 else subject
    if here and r.random() < 0.6:
        near = r.choice(here)
        return Subject(near.kind, r.choice(COLOURS)) if r.random() < 0.6 else Subject(r.choice(MOVERS), near.colour)
    return Subject(r.choice(MOVERS), r.choice(("", *COLOURS)))


Pick = Callable[[Watch, Random, Sequence[int] | None, float], Subject]


def lookalike(w: Watch, r: Random, where: Sequence[int] | None, seen: float) -> Subject:
    """Something of a kind that was there, whether in this colour or in another: only the colour tells."""
    here = w.present(where)
    if not here:
        return _pick(w, r, where, seen)
    kind = r.choice(here).kind
    worn = [t.colour for t in here if t.kind == kind]
    return Subject(kind, r.choice(worn if r.random() < min(seen, 0.6) else [c for c in COLOURS if c not in worn] or worn))


def _place(w: Watch, r: Random) -> str:
    """Sometimes the camera's name is in the question; which cameras are meant has been settled before."""
    return f" at the {w.cameras[0]}" if len(w.cameras) == 1 and r.random() < 0.5 else ""


def presence_now(w: Watch, r: Random, pick: Pick = _pick) -> Quiz | None:
    """Is it there now?"""
    subject = pick(w, r, w.now, 0.55)
    if not w.known(subject, w.now):
        return None
    a, place = article(subject.words(r)), _place(w, r)
    text = r.choice(
        (
            f"Is there {a}{place} now?",
            f"Do you see {a}{place} right now?",
            f"Is {a} visible{place} at the moment?",
            f"Is it true now that {a} is {place.strip() or 'there'}?",
            f"Is it true now that {a} is {place.strip() or 'there'}?",
        )
    )
    evidence = tuple(w.clear(subject, w.now))
    return Quiz(family="presence", text=text, answer="yes" if evidence else "no", evidence=evidence, about=(subject,))


def presence(w: Watch, r: Random, pick: Pick = _pick) -> Quiz | None:
    """Was it there at any time?"""
    subject = pick(w, r, None, 0.55)
    if not w.known(subject):
        return None
    a, place = article(subject.words(r)), _place(w, r)
    text = r.choice(
        (
            f"Was there {a}{place}?",
            f"Did {a} come by{place}?",
            f"Have you seen {a}{place}?",
            f"Has {a} been seen{place}?",
            f"Did {a} pass{place}?",
        )
    )
    evidence = tuple(w.clear(subject))
    return Quiz(family="presence", text=text, answer="yes" if evidence else "no", evidence=evidence, about=(subject,))


def colour(w: Watch, r: Random) -> Quiz | None:
    """Which colour was the only one of its kind?"""
    kinds = [k for k in MOVERS if len({t.colour for t in w.present() if t.kind == k}) <= 1 and w.known(Subject(k))]
    seen = [k for k in kinds if w.clear(Subject(k))]
    pool = seen if seen and r.random() < 0.85 else [k for k in kinds if k not in seen]
    if not pool:
        return None
    subject = Subject(r.choice(pool))
    if any(subject.matches(s) and HINT <= s.visible < CLEAR and s.colour != _only_colour(w, subject) for x in w.shots for s in x.sightings):
        return None
    noun, place = the(subject.words(r)), _place(w, r)
    worn = subject.kind == "person"
    text = r.choice(
        (
            f"What colour was {noun}{' wearing' if worn else ''}{place}?",
            f"Which colour did {noun} {'wear' if worn else 'have'}{place}?",
            f"What was the colour of {noun}{place}?",
        )
    )
    evidence = tuple(w.clear(subject))
    if not evidence:
        return Quiz(family="not seen", text=text, answer=NOT_SEEN, about=(subject,))
    return Quiz(family="colour", text=text, answer=_only_colour(w, subject), evidence=evidence, about=(subject,))


def _only_colour(w: Watch, subject: Subject) -> str:
    return next((t.colour for t in w.present() if t.kind == subject.kind), "")


def count_now(w: Watch, r: Random) -> Quiz | None:
    """How many are there now?"""
    return _count(w, r, w.now, ("How many {} are there{} now?", "How many {} do you see{} right now?", "Count the {}{} at the moment."))


def count(w: Watch, r: Random) -> Quiz | None:
    """How many different ones came by?"""
    return _count(w, r, None, ("How many {} came by{}?", "How many different {} were there{}?", "How many {} have you seen{}?"))


def _count(w: Watch, r: Random, where: Sequence[int] | None, templates: tuple[str, ...]) -> Quiz | None:
    kind = r.choice([t.kind for t in w.present(where)] or MOVERS) if r.random() < 0.8 else r.choice(MOVERS)
    subject = Subject(kind)
    found = w.ids(subject, where)
    if len(w.cameras) > 1 or w.arguable(subject, where) or len(found) >= len(NUMBERS):
        return None
    text = r.choice(templates).format(r.choice(PLURALS[kind]), _place(w, r))
    evidence = tuple(sorted({i for shots in found.values() for i in shots}))
    return Quiz(family="count", text=text, answer=NUMBERS[len(found)], evidence=evidence, about=(subject,))


def direction(w: Watch, r: Random, pick: Pick = _pick) -> Quiz | None:
    """Which way did it go? Asked when all that match went the same way, and were seen to move."""
    subject = pick(w, r, None, 0.9)
    if not w.known(subject):
        return None
    headings = {s.heading for x in w.shots for s in x.sightings if subject.matches(s) and s.visible >= HINT}
    evidence = tuple(w.clear(subject))
    moved = any(subject.matches(s) and s.moving for i in evidence for s in w.shots[i].sightings)
    if len(headings) > 1 or len(evidence) == 1 or evidence and not moved:
        return None
    noun, place = the(subject.words(r)), _place(w, r)
    text = r.choice(
        (f"Which way did {noun} go{place}?", f"In which direction was {noun} moving{place}?", f"Was {noun} going left or right{place}?")
    )
    if not evidence:
        return Quiz(family="not seen", text=text, answer=NOT_SEEN, about=(subject,))
    return Quiz(family="direction", text=text, answer="right" if headings == {1} else "left", evidence=evidence, about=(subject,))


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
    answer = the((one if earlier else other).words(_Plain()))
    evidence = tuple(i for i in (first if earlier else second) if i < max(first[0], second[0]))
    if r.random() < 0.4:
        text = r.choice((f"Did {a} come before {b}{place}?", f"Was {a} here earlier than {b}{place}?"))
        return Quiz(family="order", text=text, answer="yes" if earlier else "no", evidence=evidence, about=(one, other))
    text = r.choice(
        (f"Which came first{place}, {a} or {b}?", f"What was here first{place}, {a} or {b}?", f"Which was seen first, {a} or {b}?")
    )
    return Quiz(family="order", text=text, answer=answer, evidence=evidence, about=(one, other))


def camera(w: Watch, r: Random, pick: Pick = _pick) -> Quiz | None:
    """Which camera saw it last?"""
    text = ("Which camera saw {} last?", "Where was {} last seen?", "Where did you last see {}?", "On which camera was {} last?")
    return _last(w, r, "camera", WHERE, text, pick) if len(w.cameras) > 1 else None


def when(w: Watch, r: Random, pick: Pick = _pick) -> Quiz | None:
    """When was it last seen?"""
    text = ("When did you last see {}?", "How long ago was {} here?", "When was {} last seen?", "How long ago did you see {}?")
    return _last(w, r, "how long ago", WHEN, text, pick)


def _last(w: Watch, r: Random, family: str, token: str, templates: tuple[str, ...], pick: Pick) -> Quiz | None:
    subject = pick(w, r, None, 0.85)
    evidence = w.clear(subject)
    late = [i for i in range(evidence[-1] + 1 if evidence else 0, len(w.shots)) if w.shots[i].camera]
    if not w.known(subject) or w.arguable(subject, late) and not evidence:
        return None
    phrase = subject.words(r)
    text = r.choice(templates).format(the(phrase) if subject.colour else article(phrase))
    if not evidence:
        return Quiz(family="not seen", text=text, answer=NOT_SEEN, about=(subject,))
    final = w.shots[evidence[-1]]
    together = (w.shots[i] for i in evidence if final.at - w.shots[i].at <= TOGETHER)
    if family == "camera" and any(shot.camera != final.camera for shot in together):
        return None
    beside = [i for i in late if any(subject.matches(s) and s.visible >= HINT for s in w.shots[i].sightings)]
    if any(w.shots[i].camera != final.camera for i in beside) or any(w.shots[i].at - final.at > 2.5 for i in beside):
        return None
    kept = [i for i in evidence if w.shots[i].camera == final.camera and final.at - w.shots[i].at <= 1.6]
    return Quiz(family=family, text=text, answer=token, evidence=tuple(kept), about=(subject,))


def left(w: Watch, r: Random) -> Quiz | None:
    """Was something left behind?"""
    seen = {k: w.clear(Subject(k)) for k in ("bag", "box")}
    if any(w.arguable(Subject(k)) for k in seen):
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
    return Quiz(family="left", text=text, answer=" and ".join(names) or "nothing", evidence=evidence, about=tuple(map(Subject, seen)))


def describe(w: Watch, r: Random) -> Quiz | None:
    """What is there now? From left to right; one camera only."""
    if len(w.cameras) > 1 or any(HINT <= s.visible < CLEAR for s in w.shots[-1].sightings) and r.random() < 0.5:
        return None
    shown = sorted((s for s in w.shots[-1].sightings if s.visible >= CLEAR), key=lambda s: s.x)[:4]
    parts = [article(Subject(s.kind, s.colour).words(_Plain())) if s.colour else f"a {s.kind}" for s in shown]
    text = r.choice(("What do you see now?", "What is there right now?", "Describe what you see.", "What is happening now?"))
    return Quiz(family="describe", text=text, answer=", ".join(parts) or "nothing", evidence=(len(w.shots) - 1,) if shown else ())


def detail(w: Watch, r: Random) -> Quiz | None:
    """Everything now with its place (1 left to 8 right) and heading: words that the tokenizer knows and nobody asks for yet."""
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
