"""Many questions at once: who is in the batch when, what each hears, and words that never show what they are made of."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from carriers import Word
from hypothesis import given
from hypothesis import strategies as st
from small_models import F64, ONE, backbone, frames, some_models, stream
from test_answerer import Decoder, Memory, answerer, at, carrier, unhurried

from model.batch import Batch
from model.videoscan import VideoScan
from pipeline.batching import Batching, Said, Seat
from pipeline.core import Answer, Carrier, CarrierKey, Question, TooLate
from pipeline.grounding import NOT_SEEN, WHEN, WHERE, speakable

SEEN = [carrier(CarrierKey(camera_id="gate", at_ms=1))]


@dataclass
class Counting:
    """Counts aloud from 1 to what is asked for; a question that is no number breaks it."""

    turns: list[set[str]] = field(default_factory=list)
    said: dict[Seat, int] = field(default_factory=dict)

    def turn(self, joining: Mapping[Seat, tuple[str, Sequence[Carrier]]], leaving: Collection[Seat]) -> dict[Seat, Word]:
        self.said = {seat: n + 1 for seat, n in (self.said | dict.fromkeys(joining, 0)).items() if seat not in leaving}
        self.turns.append({seat.question for seat in self.said})
        told = {seat: Word(str(n), ended=n == int(seat.question)) for seat, n in self.said.items()}
        self.said = {seat: n for seat, n in self.said.items() if not told[seat].ended}
        return told


async def all_of(batching: Batching, question: str, within_s: float = 60) -> str:
    return " ".join([said.text async for said in batching.ask(question, SEEN, within_s)])


def played(play: Callable[[Batching], Coroutine[Any, Any, Any]], **options: Any) -> tuple[Any, Counting, list[int], list[str]]:
    counting, turned, left = Counting(), list[int](), list[str]()
    batching = Batching(lambda: counting, turned=turned.append, left=left.append, **options)
    return asyncio.run(asyncio.wait_for(play(batching), 60)), counting, turned, left


def test_all_hear_every_word_and_who_waits_sits_down_when_a_seat_is_free() -> None:
    async def play(batching: Batching) -> list[str]:
        return await asyncio.gather(*(all_of(batching, n) for n in ("3", "1", "2", "4")))

    heard, counting, turned, left = played(play, seats=2)
    assert heard == ["1 2 3", "1", "1 2", "1 2 3 4"]
    assert counting.turns == [{"3", "1"}, {"3", "2"}, {"3", "2"}, {"4"}, {"4"}, {"4"}, {"4"}]
    assert (turned, left) == ([2, 2, 2, 1, 1, 1, 1], [])


def test_one_who_joins_later_shares_the_turns_of_those_that_are_there() -> None:
    async def play(batching: Batching) -> str:
        async with aclosing(batching.ask("5", SEEN, 60)) as first:
            await anext(first)
            late = asyncio.create_task(all_of(batching, "2"))
            return " ".join([said.text async for said in first] + [await late])

    heard, counting, turned, _ = played(play)
    assert heard == "2 3 4 5 1 2" and counting.turns.count({"5", "2"}) == 2 and max(turned) == 2


def test_who_hangs_up_in_the_batch_or_in_line_is_let_go() -> None:
    async def play(batching: Batching) -> str:
        endless = batching.ask("1000000", SEEN, 60)
        await anext(endless)
        waiting = asyncio.create_task(all_of(batching, "1"))
        await anext(endless)
        waiting.cancel()
        await asyncio.sleep(0)
        await endless.aclose()
        return await all_of(batching, "2")

    heard, counting, _, left = played(play, seats=1)
    assert (heard, left, counting.said) == ("1 2", ["cancelled", "cancelled"], {})
    assert {"1"} not in counting.turns


def test_what_takes_too_long_ends_in_the_batch_and_in_line() -> None:
    async def play(batching: Batching) -> list[Any]:
        asked = (all_of(batching, "1000000", 0.05), all_of(batching, "1000001", 0.05), all_of(batching, "2"))
        return list(await asyncio.gather(*asked, return_exceptions=True))

    (first, second, third), counting, _, left = played(play, seats=1)
    assert isinstance(first, TooLate) and isinstance(second, TooLate) and third == "1 2"
    assert left == ["late", "late"] and not counting.said


def test_a_turn_that_fails_is_told_to_all_in_it_and_the_next_begin_anew() -> None:
    batches: list[Counting] = []

    def batch() -> Counting:
        batches.append(Counting())
        return batches[-1]

    async def play() -> list[Any]:
        batching = Batching(batch, seats=2)
        return list(await asyncio.gather(*(all_of(batching, q) for q in ("3", "what?", "2")), return_exceptions=True))

    first, second, third = asyncio.run(asyncio.wait_for(play(), 60))
    assert isinstance(first, ValueError) and isinstance(second, ValueError) and third == "1 2"
    assert len(batches) == 2


@some_models
@given(st.lists(st.tuples(st.sampled_from(["Who?", "Was there a car?"]), st.integers(1, 4)), min_size=2, max_size=6), st.integers(1, 4))
def test_a_models_answers_are_those_of_questions_asked_alone(asked: list[tuple[str, int]], seats: int) -> None:
    scan = VideoScan(backbone(ONE, F64), live=3)
    sets = [stream(scan, frames(n, f"cam-{i}"))[0] for i, (_, n) in enumerate(asked)]
    alone = [scan.decode(question, each, longest=5) for (question, _), each in zip(asked, sets, strict=True)]

    async def last(batching: Batching, question: str, carriers: Sequence[Carrier]) -> Said:
        return [said async for said in batching.ask(question, carriers, 60)][-1]

    async def play() -> list[Said]:
        batching = Batching(lambda: Batch(scan, longest=5), seats=seats)
        return await asyncio.gather(*(last(batching, q, each) for (q, _), each in zip(asked, sets, strict=True)))

    for said, wanted in zip(asyncio.run(play()), alone, strict=True):
        assert said.ended and said.text == wanted.text and said.probability == pytest.approx(wanted.probability, rel=1e-9)
        assert np.allclose(said.attention, wanted.attention, rtol=0, atol=1e-12)


# From words to an answer


async def spoken(decoder: Decoder, _: str, carriers: Sequence[Carrier], cuts: Sequence[int]) -> AsyncGenerator[Said, None]:
    """What a decoder says, cut into pieces anywhere."""
    said = decoder.decode("?", carriers)
    for cut in cuts:
        yield Word(said.text[:cut], said.probability, said.attention)
    yield Word(said.text, said.probability, said.attention, ended=True)


texts = st.lists(st.sampled_from([WHERE, WHEN, "<", "<wh", "at ", "the yard ", "w", ">", ", "]), min_size=1, max_size=6).map("".join)


@unhurried
@given(text=texts, looks_ms=st.sampled_from([at(2), None]), data=st.data())
def test_words_lead_to_the_answer_of_the_question_asked_alone_and_never_show_what_points(
    text: str, looks_ms: int | None, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text)))))
    decoder, memory = Decoder(text=text, looks_ms=looks_ms), Memory({"gate": [0, 1, 2]})

    async def play() -> list[str | Answer]:
        asked = answerer(decoder, memory).stream(Question(text="?"), partial(spoken, decoder, cuts=cuts))
        return [said async for said in asked]

    *words, answer = asyncio.run(play())
    alone = answerer(decoder, memory).answer(Question(text="?"))
    assert isinstance(answer, Answer) and answer.first_ms <= answer.took_ms
    assert (answer.text, answer.evidence, answer.gaps, answer.probability) == (alone.text, alone.evidence, alone.gaps, alone.probability)
    so_far = "".join(str(word) for word in words)
    assert answer.text.startswith(so_far) or answer.text == NOT_SEEN
    assert WHERE not in so_far and WHEN not in so_far and all(word for word in words)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a car", "a car"),
        ("at <", "at "),
        ("at <whe", "at "),
        ("at <where", "at "),
        ("at <where>", "at <where>"),
        ("at <where> <w", "at <where> "),
        ("a < b", "a < b"),
        ("caf\ufffd", "caf"),
        ("", ""),
    ],
)
def test_what_is_half_said_is_not_shown(text: str, shown: str) -> None:
    assert speakable(text) == shown


def test_the_first_word_is_timed_when_it_comes() -> None:
    async def slow(_: str, __: Sequence[Carrier]) -> AsyncGenerator[Said, None]:
        yield Word("a ")
        await asyncio.sleep(0.05)
        yield Word("a car", ended=True)

    async def play() -> list[str | Answer]:
        return [said async for said in answerer(Decoder(), Memory({"gate": [1]})).stream(Question(text="?"), slow)]

    words, answer = asyncio.run(play())
    assert words == "a " and isinstance(answer, Answer) and answer.took_ms - answer.first_ms >= 45
