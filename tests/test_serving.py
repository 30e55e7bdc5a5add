"""The API's way to the decode plane through the handles of Serve itself, in one process: Ray is not started."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from carriers import FINGERPRINT
from ray import serve

from actors.api import ask_decode
from actors.decode import serve_options
from actors.tracing import Trace
from pipeline.config import DecodeSection
from pipeline.core import Answer, NoMemory, Question


class Talking:
    """Stands for Decode; to one question it never stops talking."""

    def __init__(self) -> None:
        self._listeners = 0

    async def answer(self, question: Question, _: Trace) -> AsyncGenerator[str | Answer, None]:
        self._listeners += 1
        try:
            if question.text == "nothing":
                raise NoMemory("nothing is remembered")
            yield "A "
            while question.text == "for ever":
                yield "very "
                await asyncio.sleep(0.01)
            said: dict[str, Any] = {"text": "A car", "probability": 1.0, "evidence": (), "gaps": (), "cameras": ("gate",), "carriers": 1}
            yield Answer(**said, mode="carriers", model=FINGERPRINT, took_ms=2.0, first_ms=1.0)
        finally:
            self._listeners -= 1

    async def listeners(self) -> int:
        return self._listeners


@pytest.fixture(scope="module")
def decode() -> Iterator[Any]:
    options = serve_options(DecodeSection(min_replicas=1, max_replicas=3), gpus=0.5)
    deployment = serve.deployment(Talking, **options)
    assert deployment._deployment_config.autoscaling_config.max_replicas == 3
    yield serve.run(deployment.bind(), name="talking", _local_testing_mode=True)


def ask(decode: Any, text: str) -> AsyncGenerator[str | Answer, None]:
    return ask_decode(decode, Question(text=text), Trace.new())


async def nobody_listens(decode: Any) -> None:
    async with asyncio.timeout(60):
        while await decode.listeners.remote():
            await asyncio.sleep(0.01)


def test_words_come_and_then_the_answer(decode: Any) -> None:
    async def listen() -> list[str | Answer]:
        return [said async for said in ask(decode, "What?")]

    word, answer = asyncio.run(listen())
    assert word == "A " and isinstance(answer, Answer) and answer.text == "A car"


def test_an_error_of_the_replica_is_raised_as_it_was(decode: Any) -> None:
    with pytest.raises(NoMemory, match="nothing is remembered"):
        asyncio.run(anext(ask(decode, "nothing")))


def test_who_closes_hangs_up(decode: Any) -> None:
    async def play() -> None:
        talk = ask(decode, "for ever")
        assert [await anext(talk), await anext(talk)] == ["A ", "very "]
        await talk.aclose()
        await nobody_listens(decode)

    asyncio.run(play())


def test_who_is_cancelled_hangs_up(decode: Any) -> None:
    heard = asyncio.Event()

    async def listen() -> None:
        async for _ in ask(decode, "for ever"):
            heard.set()

    async def play() -> None:
        listening = asyncio.create_task(listen())
        await heard.wait()
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        await nobody_listens(decode)

    asyncio.run(play())
