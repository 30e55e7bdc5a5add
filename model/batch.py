"""Continuous batching over VideoScan: questions share its passes, and each is answered as it would be alone."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.decoding import LONGEST
from model.together import Answering
from model.videoscan import VideoScan
from pipeline.core import Carrier

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """An answer so far, as `model.videoscan.Decoded`."""

    text: str
    probability: float
    attention: NDArray[np.float64]
    ended: bool


@dataclass(slots=True, kw_only=True, eq=False)
class _Row:
    attention: NDArray[np.float64]
    tokens: list[int]
    probability: float = 1.0
    ended: bool = False


class Batch(Generic[Name]):
    """Questions being answered, by whatever names their askers give them. Not thread-safe."""

    def __init__(self, scan: VideoScan, *, longest: int = LONGEST) -> None:
        self._scan, self._longest = scan, longest
        self._answering = Answering(scan.backbone)
        self._rows: dict[Name, _Row] = {}

    def turn(self, joining: Mapping[Name, tuple[str, Sequence[Carrier]]], leaving: Collection[Name] = ()) -> dict[Name, Said]:
        """Everybody says one token more, and those that join their first; those that leave do not. All of them, with what they said.

        Who has ended is gone by itself. Raises ForeignCarrier if a carrier was made by another model; then nothing has changed.
        """
        read = self._scan.read([text for text, _ in joining.values()], [carriers for _, carriers in joining.values()]) if joining else None
        self._let_go(leaving)
        if self._rows:
            self._answering.next()
        if read:
            questions, looks = read
            self._answering.join(questions)
            self._rows |= {name: _Row(attention=each, tokens=[]) for name, each in zip(joining, looks, strict=True)}
        spoken = zip(self._rows.values(), self._answering.tokens.tolist(), self._answering.probabilities.tolist(), strict=True)
        for row, token, probability in spoken:
            self._hear(row, token, probability)
        said = {name: self._said(row) for name, row in self._rows.items()}
        self._let_go([name for name, each in said.items() if each.ended])
        return said

    def _let_go(self, leaving: Collection[Name]) -> None:
        staying = {i: name for i, name in enumerate(self._rows) if name not in leaving}
        if len(staying) < len(self._rows):
            self._answering.keep(list(staying))
            self._rows = {name: self._rows[name] for name in staying.values()}

    def _hear(self, row: _Row, token: int, probability: float) -> None:
        row.probability *= probability
        if token in self._scan.backbone.ends:
            row.ended = True
            return
        row.tokens.append(token)
        row.ended = len(row.tokens) == self._longest

    def _said(self, row: _Row) -> Said:
        text = self._scan.backbone.words(row.tokens)
        return Said(text=text, probability=row.probability, attention=row.attention, ended=row.ended)
