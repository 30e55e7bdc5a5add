"""What a backbone is taught from: clips, each seen once and asked about several times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core import LongwatchError


class BadData(LongwatchError):
    """Annotations that cannot be read; the text names file, entry and what is wrong."""


class BadClip(LongwatchError):
    """A clip that cannot be shown, named; training skips it, counts it and goes on."""


class NothingToLearn(LongwatchError):
    """Of all clips none can be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with its answer, over some of a clip's frames; None: over any part of it, as retrieval would give."""

    question: str
    answer: str
    over: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """Frames of one camera in order of time, RGB [height, width, 3], and what is asked about them."""

    frames: Sequence[NDArray[np.uint8]]
    asked: tuple[Asked, ...]


class Clips(Protocol):
    """A source of clips. The same index gives the same clip, in any process."""

    def __len__(self) -> int: ...

    def clip(self, index: int) -> Clip:
        """Raises BadClip."""
        ...


class Several:
    """Several sources as one."""

    def __init__(self, sources: Sequence[Clips]) -> None:
        self._sources = sources

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def clip(self, index: int) -> Clip:
        """See `Clips`."""
        for source in self._sources:
            if index < len(source):
                return source.clip(index)
            index -= len(source)
        raise IndexError(index)


class Feed(Iterator[Clip]):
    """One worker's share of the clips without end, in an order drawn anew each time all have been shown.

    `taken` clips were taken before, by this worker: a feed made with it goes on where that one stopped. Raises NothingToLearn
    when so many in a row cannot be shown that all of them must be among these.
    """

    def __init__(self, clips: Clips, seed: int, *, taken: int = 0, worker: int = 0, workers: int = 1) -> None:
        self._clips, self._seed, self._worker, self._workers = clips, seed, worker, workers
        self._epoch, self._order = -1, [0]
        self.taken = taken
        self.skipped: list[str] = []  # why, each; since this feed was made

    def __next__(self) -> Clip:
        fault = "there are none"
        for _ in range(2 * len(self._clips)):  # wherever it begins, a whole round is among these
            index = self._index(self.taken * self._workers + self._worker)
            self.taken += 1
            try:
                return self._clips.clip(index)
            except BadClip as error:
                fault = str(error)
                self.skipped.append(fault)
        raise NothingToLearn(f"of {len(self._clips)} clips none can be shown; the last: {fault}")

    def _index(self, place: int) -> int:
        epoch, at = divmod(place, len(self._clips))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._clips)))
            Random(f"{self._seed} {epoch}").shuffle(self._order)
        return self._order[at]
