"""What is looked at of a long memory: passages of many sites, an hour apart, that show what is most easily mistaken.

Of hours of a camera the most relevant moments are chosen, and so the most misleading ones: a model that has only met what one minute shows
takes one of sixty for what is asked about. Which those are, a relevance head says:

    python -m model.hours .cache/footage .cache/train/model .cache/train/resembling.npy

writes how much every frame resembles every subject: logits float16 [sites, 2 mirrored, cameras, seconds, subjects].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track

from model.backbone import Backbone
from model.probe import SUBJECTS
from model.relevance import Relevance, load, read
from simulator.questions import Quiz, camera, direction, presence, when
from simulator.visits import CAMERAS, MOVERS
from simulator.watching import Shot, Subject, Watch

SHAPES = ((8, 24), (16, 12))  # frames of a clip, clips
DRAWN = 960  # clips, of which the most misleading are taken
ALONE = 0.4  # of what is asked, over one passage, as a closer look at it is
BUDGETS = (24, 48, 64, 96)  # shots that are looked at
MOVING = [i for i, (kind, _) in enumerate(SUBJECTS) if kind in MOVERS]
PHRASES = ("Was there {}?", "When did you last see {}?", "Which way did {} go?")

Table = NDArray[np.float16]
Family = Callable[[Watch, Random], Quiz | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Some shots of clips that lie one behind the other: their indices, in order of time; their truth; what to ask."""

    context: list[int]
    watch: Watch
    families: tuple[Family, ...]


def misleading(resembling: Table, told: NDArray[np.float32], r: Random) -> tuple[Subject, list[list[int]]]:
    """A subject, and clips [site, mirrored, camera, *seconds] of what resembles it most; the first shows it, if any drawn does.

    `told` [sites, 2, cameras, seconds, subjects]: 1 where a frame shows it, 0 where it does not, NaN where barely.
    """
    sites, mirrors, cameras, seconds, _ = resembling.shape
    about, (frames, clips) = r.choice(MOVING), r.choice(SHAPES)
    places = {(r.randrange(sites), r.randrange(mirrors), r.randrange(cameras)) for _ in range(DRAWN)}
    shown = [place for place in places if (told[place][:, about] == 1).any()]
    others = [place for place in places if (told[place][:, about] == 0).all()]
    others.sort(key=lambda place: -resembling[place][:, about].max())
    chosen = [*shown[:1], *others[: clips - len(shown[:1])]]
    starts = [min(max(0, int(resembling[place][:, about].argmax()) - r.randrange(frames)), seconds - frames) for place in chosen]
    return Subject(*SUBJECTS[about]), [[*place, *range(at, at + frames)] for place, at in zip(chosen, starts, strict=True)]


def hours(clips: Sequence[Sequence[Shot]], subject: Subject, r: Random) -> Iterator[Hours]:
    """Passages of clips equally long, of which only the first may show the subject; again and again, without an end."""
    frames = len(clips[0])
    while True:
        order = _order(len(clips), r)
        name = r.choice((None, *CAMERAS))  # several cameras, or all as if one's
        room = r.choice(BUDGETS)
        shots: dict[int, Shot] = {}
        for hour, i in enumerate(order):
            length = frames if i == 0 or len(order) == 1 else r.choice((1, 2, 4, frames))
            start = r.randrange(frames - length + 1)
            if i == 0 or len(shots) + length <= room:
                shots |= {i * frames + at: _dated(clips[i], at, i, hour, name) for at in range(start, start + length)}
        yield Hours(
            context=list(shots),
            watch=Watch(list(shots.values())),
            families=tuple(partial(family, pick=lambda *_: subject) for family in (presence, when, camera, direction)),
        )


def _order(clips: int, r: Random) -> list[int]:
    """Which clips are looked at, in order of time: all, or one alone; the first, which may show it, in half of the cases."""
    shown, others = [0] if r.random() < 0.5 else [], range(1, clips)
    if r.random() < ALONE:
        return shown or [r.choice(others)]
    return r.sample([*shown, *others], len(shown) + len(others))


def _dated(clip: Sequence[Shot], at: int, number: int, hour: int, name: str | None) -> Shot:
    """A shot of a clip as one of that hour; its objects are no other clip's."""
    sightings = tuple(replace(s, id=f"{number} {s.id}") for s in clip[at].sightings)
    return Shot(camera=name or clip[at].camera, at=hour * 3600 + clip[at].at - clip[0].at, sightings=sightings)


def subjects(backbone: Backbone, head: Relevance) -> torch.Tensor:
    """What the head looks for [SUBJECTS, VECTOR], over some ways to ask."""
    names = [f"the {colour} {kind}".replace("  ", " ") for kind, colour in SUBJECTS]
    states = torch.stack([torch.stack([read(backbone, phrase.format(name)) for phrase in PHRASES]) for name in names])
    every: torch.Tensor = head.questions(head.about(states.flatten(0, 1))).unflatten(0, (len(names), -1))
    return every.mean(1)


def main(footage: Path, folder: Path, out: Path) -> None:
    """Write the table."""
    from model.examples import Library

    backbone = Backbone.load(folder)
    head = load(backbone, folder)
    assert head is not None, f"{folder} has no relevance head: python -m model.train_relevance"
    library = Library(footage, backbone)
    sought = subjects(backbone, head)
    table: list[Any] = []
    for site in track(range(len(library)), description="watching"):
        both = torch.stack([library.footage(site, mirrored) for mirrored in (0, 1)])
        vectors = head.frames(head.patches(both.flatten(0, 2))).unflatten(0, both.shape[:3])
        table.append((vectors @ sought.T).half().numpy())
    np.save(out, np.stack(table))


if __name__ == "__main__":
    typer.run(main)
