"""Questions as the API sees them: how they end, and how long their answers take."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from actors.metrics import BUCKETS_S
from actors.tracing import Trace, Tracer
from pipeline.core import Answer, BadSpan, NoMemory, Question, StoreUnavailable, TooLate, UnknownCamera
from web.guard import Busy, NotReady

ANSWERED, FAILED = "answered", "failed"
OUTCOMES: dict[type[BaseException], str] = {
    NoMemory: "no_memory",
    UnknownCamera: "bad",
    BadSpan: "bad",
    StoreUnavailable: "unavailable",
    NotReady: "unavailable",
    Busy: "busy",
    TooLate: "late",
    asyncio.CancelledError: "cancelled",  # the client went
    GeneratorExit: "cancelled",  # the same, between two words
}

Ask = Callable[[Question, Trace], AsyncGenerator[str | Answer, None]]


class Asking:
    """Questions, as their clients see them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter("longwatch_questions", "Questions by outcome", ["outcome"], registry=registry)
        for outcome in {ANSWERED, FAILED, *OUTCOMES.values()}:
            self._count.labels(outcome)  # told from the start: a rate needs a first value
        self._seconds = Histogram("longwatch_question_seconds", "From question to answer", buckets=BUCKETS_S, registry=registry)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a question by how it ends; only answers are timed."""
        began, outcome = time.perf_counter(), ANSWERED
        try:
            yield
        except BaseException as error:
            outcome = next((OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES), FAILED)
            raise
        finally:
            self._count.labels(outcome).inc()
            if outcome == ANSWERED:
                self._seconds.observe(time.perf_counter() - began)


async def watched(ask: Ask, asking: Asking, tracer: Tracer, question: Question) -> AsyncGenerator[str | Answer, None]:
    """Ask, counted and traced however it ends."""
    trace, began_ns = Trace.new(), time.time_ns()
    try:
        with asking.one():
            async with aclosing(ask(question, trace)) as saying:
                async for said in saying:
                    yield said
    finally:
        tracer.span(trace, "question", began_ns, time.time_ns(), root=True)
