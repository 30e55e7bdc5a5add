"""Continuous batching: concurrent questions share a model's passes. They join between tokens, and leave when they end or nobody listens.

The scheduling is vLLM's, in small. Between two tokens nothing runs but the event loop, so what decides who is in needs no lock.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from pipeline.core import Carrier, TooLate

SEATS = 32  # questions in the batch; more wait for one that leaves


class Decoded(Protocol):
    """What a model said, how surely, and where it looked."""

    @property
    def text(self) -> str:
        """In the model's words."""

    @property
    def probability(self) -> float:
        """Of those words, or of yes."""

    @property
    def attention(self) -> NDArray[Any]:
        """Paid to each carrier."""


class Said(Decoded, Protocol):
    """What a model has said so far."""

    @property
    def ended(self) -> bool:
        """No more comes."""


@dataclass(slots=True, kw_only=True, eq=False)
class Seat:
    """One question in line or in the batch."""

    question: str
    carriers: Sequence[Carrier]
    until_s: float  # of the event loop's time
    news: asyncio.Queue[Said | Exception] = field(default_factory=asyncio.Queue)


class Batch(Protocol):
    """Questions being answered, all a token further at each turn."""

    def turn(self, joining: Mapping[Seat, tuple[str, Sequence[Carrier]]], leaving: Collection[Seat], /) -> Mapping[Seat, Said]:
        """Everybody says one token more, and those that join their first; those that leave do not. Who has ended goes by itself."""


class Batching:
    """Serves a batch to whoever asks, from one event loop. `batch` makes an empty one: at first, and after one that failed.

    `turned` is told after each turn how many questions shared it, `left` why a question left before its end: "late" or "cancelled".
    """

    def __init__(
        self,
        batch: Callable[[], Batch],
        *,
        seats: int = SEATS,
        turned: Callable[[int], None] = lambda _: None,
        left: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._new, self._batch = batch, batch()
        self._seats, self._turned, self._left = seats, turned, left
        self._waiting: list[Seat] = []
        self._seated: list[Seat] = []
        self._leaving: list[Seat] = []
        self._thread = ThreadPoolExecutor(1, "batch")  # its own: the default one is full of questions that read their carriers
        self._running: asyncio.Task[None] | None = None

    async def ask(self, question: str, carriers: Sequence[Carrier], within_s: float) -> AsyncGenerator[Said, None]:
        """What has been said, token by token. Close it (`aclose`) to hang up. Raises TooLate, and what the batch raises."""
        seat = Seat(question=question, carriers=carriers, until_s=asyncio.get_running_loop().time() + within_s)
        self._waiting.append(seat)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            while True:
                news = await seat.news.get()
                if isinstance(news, Exception):
                    raise news
                yield news
                if news.ended:
                    return
        finally:
            self._leave(seat, "cancelled")

    def _leave(self, seat: Seat, why: str) -> None:
        """Let go of a seat that is still taken."""
        if seat in self._waiting:
            self._waiting.remove(seat)
        elif seat in self._seated:
            self._seated.remove(seat)
            self._leaving.append(seat)
        else:
            return
        self._left(why)

    async def _run(self) -> None:
        """Turn by turn, until nobody is left."""
        loop = asyncio.get_running_loop()
        while self._waiting or self._seated or self._leaving:
            self._send_off(loop.time())
            free = self._seats - len(self._seated)
            joining, self._waiting = self._waiting[:free], self._waiting[free:]
            self._seated += joining
            leaving, self._leaving = self._leaving, []
            asked = {seat: (seat.question, seat.carriers) for seat in joining}
            try:
                said = await loop.run_in_executor(self._thread, self._batch.turn, asked, leaving)
            except Exception as error:  # noqa: BLE001  # whatever it is, everybody in the batch is told, and those in line still get their turn
                self._fail(error)
                continue
            self._turned(len(said))
            self._tell(said)

    def _send_off(self, now_s: float) -> None:
        """Those who would be answered too late."""
        for seat in [seat for seat in (*self._seated, *self._waiting) if seat.until_s < now_s]:
            self._leave(seat, "late")
            seat.news.put_nowait(TooLate("there was no answer in time"))

    def _fail(self, error: Exception) -> None:
        failed, self._seated, self._leaving, self._batch = self._seated, [], [], self._new()
        for seat in failed:
            seat.news.put_nowait(error)

    def _tell(self, said: Mapping[Seat, Said]) -> None:
        for seat, each in said.items():
            if seat in self._seated:  # and has not left meanwhile
                seat.news.put_nowait(each)
                if each.ended:
                    self._seated.remove(seat)
