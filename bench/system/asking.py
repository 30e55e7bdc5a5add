"""People who ask: so many at once, each one question after the other, from a process of their own.

    python -m bench.system.asking http://127.0.0.1:8600 50 20

Prints an empty line as they begin, and at last what came of each question, as one line of JSON.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import httpx
import typer

QUESTIONS = (
    "Was there a red car at the gate?",
    "How many people are there?",
    "When did you last see a white truck?",
    "Which camera saw a blue car?",
    "Is there a person with a bag?",
    "What colour was the bicycle?",
    "Which way did the green car go?",
    "How long ago did you see a black car?",
)
PATIENCE_S = 75.0  # more than the deadline of a question


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question: when it was asked (UNIX time), how long it took, until its first word within the decode plane, and HTTP's status."""

    at_s: float
    took_s: float
    first_s: float | None
    status: int  # 0: no reply


def outcome(asked: Sequence[Asked]) -> str:
    """How many were answered, and what became of the others."""
    others = sorted({each.status for each in asked} - {200})
    return ", ".join([str(len(answered(asked))), *(f"{sum(each.status == s for each in asked)} with {s or 'no reply'}" for s in others)])


def answered(asked: Sequence[Asked]) -> list[Asked]:
    """Those that were."""
    return [each for each in asked if each.status == 200]


@contextmanager
def people(url: str, count: int, seconds: float) -> Iterator[list[Asked]]:
    """So many ask for so long from when the context begins; filled when it ends, after their last answers."""
    asked: list[Asked] = []
    if not count:
        yield asked
        return
    command = [sys.executable, "-m", "bench.system.asking", url, str(count), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
    try:
        assert process.stdout
        process.stdout.readline()  # they are there
        yield asked
        told, _ = process.communicate(timeout=seconds + PATIENCE_S + 30)
        asked += [Asked(**each) for each in json.loads(told)]
    finally:
        process.kill()
        process.wait()


async def _one(client: httpx.AsyncClient, number: int) -> Asked:
    at_s, began, status, first_s = time.time(), time.perf_counter(), 0, None
    try:
        reply = await client.post("/v1/ask", json={"question": QUESTIONS[number % len(QUESTIONS)]})
        status = reply.status_code
        first_s = reply.json()["first_ms"] / 1000 if reply.is_success else None
    except httpx.TransportError:
        pass
    return Asked(at_s=at_s, took_s=time.perf_counter() - began, first_s=first_s, status=status)


async def _all(url: str, count: int, seconds: float) -> list[Asked]:
    asked: list[Asked] = []
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)

    async def person(client: httpx.AsyncClient, number: int) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asked.append(each := await _one(client, number))
            number += count + 1
            if each.status != 200:
                await asyncio.sleep(1)

    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as client:
        await asyncio.gather(*(person(client, i) for i in range(count)))
    return asked


def main(url: str, count: int, seconds: float) -> None:
    """Say that they are there, ask, and print what came of it."""
    print(flush=True)
    print(json.dumps([asdict(each) for each in asyncio.run(_all(url, count, seconds))]))


if __name__ == "__main__":
    typer.run(main)
