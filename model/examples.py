"""Training examples: clips of simulated footage, subsets of their carriers, and questions with their true answers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from model.backbone import Backbone
from model.hours import Table, hours, misleading
from model.images import normalise
from model.pretrain_tower import covered
from model.probe import SUBJECTS, WALKING, told
from model.prompt import prompt
from simulator.questions import FAMILIES, Quiz, ask, camera, describe, direction, lookalike, order, presence, presence_now, when
from simulator.visits import CAMERAS, WIDTH
from simulator.watching import Shot, Watch
from simulator.world import Sighting, Site

# Of each stage: frames of a clip, cameras of a site, sites.
SHAPES = {
    "frames": ((1, 1, 96), (2, 1, 48), (8, 1, 12), (16, 1, 6)),
    "questions": ((8, 4, 3), (16, 4, 2), (24, 4, 1), (32, 4, 1), (48, 2, 1)),
}


# Learnt last, and so asked more often; else a model takes any car for the red one that is asked about.
HARD = (order, direction, *(partial(family, pick=lookalike) for family in (presence, presence_now, when, camera, direction)))


class Library:
    """All footage as the vision tower's features, with its truth; and its mirror image, which doubles it."""

    def __init__(self, folder: Path, backbone: Backbone, sites: int | None = None) -> None:
        self.times: list[np.ndarray[Any, Any]] = []
        self.truth: list[list[list[tuple[Sighting, ...]]]] = []  # site, camera, second
        tellings, paths = [], sorted(folder.glob("*.npz"))[:sites]
        cache = folder / f"seen-{_digest(backbone)}"
        cache.mkdir(exist_ok=True)
        for i, path in enumerate(track(paths, description="looking")):
            film = np.load(path, allow_pickle=False)
            site = Site(int(path.stem))
            self.times.append(film["times"])
            self.truth.append([[site.sightings(c, t) for t in row] for c, row in zip(CAMERAS, film["times"], strict=True)])
            tellings.append(_told(self.truth[-1]))
            seen = _seen(backbone, film, cache / f"{path.stem}.npy")
            if i == 0:  # [sites, 2 mirrored, cameras, seconds, patches, width] float16, once: it is most of the memory
                self._features: Tensor = seen.new_empty(len(paths), *seen.shape)
            self._features[i] = seen
        self._told: Tensor = torch.stack(tellings)  # [sites, 2 mirrored, cameras, seconds, what the probe reads]

        self.resembling: Table | None = None  # what `model.hours` wrote

    def __len__(self) -> int:
        return len(self.times)

    @property
    def showing(self) -> NDArray[np.float32]:
        """Which frames show which subjects [sites, 2 mirrored, cameras, seconds, SUBJECTS]: 1, 0 or, where barely, NaN."""
        return self._told[..., : len(SUBJECTS)].numpy()

    def shots(self, site: int, camera: int, seconds: Sequence[int], mirrored: bool) -> list[Shot]:
        """The truth of some seconds of a camera."""
        row, at = self.truth[site][camera], self.times[site][camera]
        return [Shot(camera=CAMERAS[camera], at=at[s], sightings=tuple(map(_mirror, row[s])) if mirrored else row[s]) for s in seconds]

    def features(self, batch: "Batch") -> Tensor:
        """Features [clips, frames, patches, width] of a batch's clips."""
        return self._features[_index(batch)].float()

    def footage(self, site: int, mirrored: int = 0) -> Tensor:
        """All of a site's features [cameras, seconds, patches, width]."""
        return self._features[site, mirrored].float()

    def drawn(self, sites: range, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random frames of some sites: features [count, patches, width], what they show and what their patches do.

        [count, SUBJECTS] as in `showing`, [count, patches] as in `covering`. Drawn by `crowded`.
        """
        every = (self._features, self._told, self.covering, self.crowded)
        features, told, covering, crowded = (each[sites.start : sites.stop].flatten(0, 3) for each in every)
        some = torch.multinomial(crowded, count, replacement=True)
        return features[some].float(), told[some, : len(SUBJECTS)], covering[some].long()

    @cached_property
    def crowded(self) -> Tensor:
        """How often each frame is drawn [sites, 2 mirrored, cameras, seconds]: half of all are empty, and one thing is easily told."""
        subjects = (self._told[..., : len(SUBJECTS)] != 0).sum(-1)  # NaN, barely there, counts too
        return torch.tensor([1.0, 2.0, 4.0])[subjects.clamp(max=2)]

    @cached_property
    def covering(self) -> Tensor:
        """Which of SUBJECTS each patch shows, -1 for none [sites, 2 mirrored, cameras, seconds, patches] int8."""
        sites = track(self.truth, description="laying out")
        laid = torch.tensor(np.array([[[covered(shot) for shot in camera] for camera in site] for site in sites]))
        return torch.stack((laid, laid.flip(-1)), dim=1).flatten(-2)

    def told(self, batch: "Batch") -> Tensor:
        """What the probe is to read [clips, frames, ...]; in a clip's first frame, not which way people walk."""
        told = self._told[_index(batch)]
        told[:, 0, WALKING] = torch.nan
        return told


def _index(batch: "Batch") -> tuple[Tensor, ...]:
    """Site, mirrored, camera [clips, 1] and seconds [clips, frames]."""
    return tuple(batch.clips.split((1, 1, 1, batch.clips.shape[1] - 3), dim=1))


def _told(truth: list[list[tuple[Sighting, ...]]]) -> Tensor:
    """What a site's frames show and their mirror images [2, cameras, seconds, ...]."""
    return torch.tensor(np.array([[[told([way(s) for s in x]) for x in row] for row in truth] for way in (_same, _mirror)]))


def _same(s: Sighting) -> Sighting:
    return s


def _digest(backbone: Backbone) -> str:
    """Names a vision tower by its weights."""
    told = hashlib.sha256()
    for tensor in backbone.net.model.vision_tower.state_dict().values():
        told.update(tensor.numpy().tobytes())
    return told.hexdigest()[:12]


def _seen(backbone: Backbone, film: Any, file: Path) -> Tensor:
    """A site's features, computed once for a tower."""
    if not file.exists():
        np.save(file, _look(backbone, film["pictures"]).numpy())
    features: Tensor = torch.from_numpy(np.load(file, allow_pickle=False))
    return features


@torch.inference_mode()
def _look(backbone: Backbone, pictures: np.ndarray[Any, Any]) -> Tensor:
    squares = torch.from_numpy(pictures).flatten(0, 1).permute(0, 3, 1, 2)
    both = [backbone.look(normalise(x, backbone.mean, backbone.std, torch.float32)).half() for x in (squares, squares.flip(3))]
    features: Tensor = torch.stack(both).unflatten(1, pictures.shape[:2])
    return features


def _mirror(s: Sighting) -> Sighting:
    return replace(s, heading=-s.heading, x=WIDTH - s.x)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Clips to be seen once, and many questions over subsets of their carriers."""

    clips: Tensor  # [clips, 3 + frames]: site, mirrored, camera, then seconds
    context: Tensor  # [n, carriers]: indices into clips * frames, in order of time, padded with 0
    counts: Tensor  # [n] real carriers
    evidence: Tensor  # [n, 2, carriers] bool: these show the answer; each evidence head's own
    tokens: Tensor  # [n, length]: question, answer, end, padding
    answer: Tensor  # [n, length] bool: tokens that are the answer's (or its end)
    begins: Tensor  # [n] index of the question's last token
    families: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question over some carriers."""

    context: list[int]
    quiz: Quiz
    looks: tuple[Sequence[int], Sequence[int]]  # see `_looks`


def batch_of(library: Library, stage: str, tokenizer: Any, r: Random) -> Batch:
    """Draw a batch: very short clips with nothing asked (stage "frames"), or clips with questions.

    "questions" are over clips of one site; "hours" are over passages of many sites, as if they were one memory's (`model.hours`).
    """
    if stage == "hours":
        return _collate(*_hours(library, r), tokenizer)
    clips: list[list[int]] = []
    examples: list[Example] = []
    frames, watched, sites = r.choice(SHAPES[stage])
    for _ in range(sites):
        site, mirrored = r.randrange(len(library)), r.random() < 0.5
        seconds = _seconds(frames, len(library.times[site][0]), r)
        base = len(clips) * frames
        cameras = r.sample(range(len(CAMERAS)), watched)
        clips += [[site, int(mirrored), camera, *seconds] for camera in cameras]
        if stage == "questions":
            shots = [shot for camera in cameras for shot in library.shots(site, camera, seconds, mirrored)]
            examples += _questions(shots, base, frames, r)
    return _collate(clips, examples, tokenizer)


def _seconds(frames: int, length: int, r: Random) -> list[int]:
    """A run of seconds, or one with holes, as thinning and retrieval leave them."""
    span = min(length, r.choice((frames, frames, 2 * frames, 4 * frames)))
    start = r.randrange(length - span + 1)
    recent = frames // 2 if r.random() < 0.5 else 0  # a live memory is dense where it is young
    older = r.sample(range(start, start + span - recent), frames - recent)
    return sorted([*older, *range(start + span - recent, start + span)])


def _questions(shots: list[Shot], base: int, frames: int, r: Random) -> list[Example]:
    """Questions over each camera alone and over several together; shots are camera by camera."""
    examples = []
    watched = len(shots) // frames
    for each in range(watched):
        alone = range(each * frames, (each + 1) * frames)
        for _ in range(2):
            examples += _over(shots, alone, base, (*FAMILIES, *HARD, describe), r)
    for _ in range(5):
        cameras = r.sample(range(watched), r.randint(2, watched))
        some = [i for c in cameras for i in range(c * frames, (c + 1) * frames)]
        examples += _over(shots, some, base, (*FAMILIES, *HARD), r)
    return examples


def _hours(library: Library, r: Random) -> tuple[list[list[int]], list[Example]]:
    """Clips of what is easily mistaken, and questions over passages of them: about that, and about what else there is cause for."""
    assert library.resembling is not None
    subject, clips = misleading(library.resembling, library.showing, r)
    shots = [library.shots(site, camera, seconds, bool(mirrored)) for site, mirrored, camera, *seconds in clips]
    examples = []
    for each in islice(hours(shots, subject, r), 12):
        asked = (ask(each.watch, r, family) for family in (*each.families, *each.families, *FAMILIES))
        examples += [Example(context=each.context, quiz=quiz, looks=_looks(quiz, each.watch)) for quiz in asked if quiz]
    return clips, examples


def _over(shots: list[Shot], some: Sequence[int], base: int, families: Sequence[Any], r: Random) -> list[Example]:
    """Questions over a random subset of some shots."""
    kept = [i for i in some if r.random() < keep] if (keep := r.choice((1.0, 1.0, 0.75, 0.5))) < 1 else list(some)
    if len(kept) < 2:
        return []
    kept.sort(key=lambda i: shots[i].at)
    w = Watch([shots[i] for i in kept])
    asked = (ask(w, r, family) for family in families)
    return [Example(context=[base + i for i in kept], quiz=quiz, looks=_looks(quiz, w)) for quiz in asked if quiz]


def _looks(quiz: Quiz, w: Watch) -> tuple[Sequence[int], Sequence[int]]:
    """What each of the two evidence heads is to look at: the same, but where a way is asked for its beginning and its end."""
    if quiz.family != "direction":
        return quiz.evidence, quiz.evidence
    way = max(w.ids(quiz.about[0]).values(), key=lambda shots: shots[-1])
    way = [i for i in way if w.shots[i].camera == w.shots[way[-1]].camera]
    some = min(2, (len(way) + 1) // 2)
    return way[:some], way[-some:]


def _collate(clips: list[list[int]], examples: list[Example], tokenizer: Any) -> Batch:
    texts = [(prompt(tokenizer, e.quiz.text)[1], _answer(tokenizer, e.quiz.answer)) for e in examples]
    longest = max((len(q) + len(a) for q, a in texts), default=0)
    n, widest = len(examples), max((len(e.context) for e in examples), default=0)
    tokens = torch.full((n, longest), tokenizer.pad_token_id)
    answer = torch.zeros(n, longest, dtype=torch.bool)
    context, evidence = torch.zeros(n, widest, dtype=torch.long), torch.zeros(n, 2, widest, dtype=torch.bool)
    for i, (example, (q, a)) in enumerate(zip(examples, texts, strict=True)):
        tokens[i, : len(q) + len(a)] = torch.tensor(q + a)
        answer[i, len(q) : len(q) + len(a)] = True
        context[i, : len(example.context)] = torch.tensor(example.context)
        for head, look in enumerate(example.looks):
            evidence[i, head, list(look)] = True
    return Batch(
        clips=torch.tensor(clips),
        context=context,
        counts=torch.tensor([len(e.context) for e in examples]),
        evidence=evidence,
        tokens=tokens,
        answer=answer,
        begins=torch.tensor([len(q) - 1 for q, _ in texts]),
        families=[e.quiz.family for e in examples],
    )


def _answer(tokenizer: Any, text: str) -> list[int]:
    return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
