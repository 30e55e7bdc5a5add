"""Questions over HTTP: answered as a whole, or with the words as they come (server-sent events)."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Self

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field, model_validator

from pipeline.core import Answer, LongwatchError, Mode, Question, TimeRange
from web.guard import NoAnswer, NotReady, known
from web.schemas import Body, EvidenceOut, GapOut, Id, Moment, now_ms

EVENTS = "text/event-stream"
STREAMED = "The answer; with `stream`, or where text/event-stream is accepted: events `words` {text}, then `answer` or `error`."

Saying = AsyncGenerator[str | Answer, None]  # words as they come, and at last the answer; closing it hangs up
Ask = Callable[[Question], Saying]


class AskBody(Body):
    """A question, and where and when to look for its answer."""

    question: str = Field(min_length=1, max_length=500, pattern=r"\S", examples=["When did the last truck leave?"])
    cameras: list[Id] = Field(default=[], max_length=256)
    since: Moment | None = None
    until: Moment | None = None
    stream: bool = False  # words as they come, as server-sent events

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError("since lies after until")
        return self

    def asked(self) -> Question:
        """The question as the decode plane takes it; no time at all means everything remembered."""
        when = None
        if self.since is not None or self.until is not None:
            start = self.since or 0
            when = TimeRange(start_ms=start, end_ms=max(start, now_ms()) if self.until is None else self.until)
        return Question(text=self.question.strip(), cameras=tuple(dict.fromkeys(self.cameras)), when=when)


class AnswerOut(BaseModel):
    """What was said, how sure, on what grounds, and what could not be looked at."""

    answer: str
    probability: float
    evidence: list[EvidenceOut]
    gaps: list[GapOut]
    cameras: list[str]
    carriers: int
    model: str
    mode: Mode
    took_ms: float
    first_ms: float

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The answer as it is sent."""
        return cls(
            answer=answer.text,
            probability=answer.probability,
            evidence=[EvidenceOut.of(e) for e in answer.evidence],
            gaps=[GapOut.of(g) for g in answer.gaps],
            cameras=list(answer.cameras),
            carriers=answer.carriers,
            model=answer.model,
            mode=answer.mode,
            took_ms=answer.took_ms,
            first_ms=answer.first_ms,
        )


class WordsOut(BaseModel):
    """More words of an answer."""

    text: str


def questions(ask: Ask | None) -> APIRouter:
    """Asking."""
    router = APIRouter()

    @router.post("/ask", response_model=AnswerOut, responses={200: {"description": STREAMED, "content": {EVENTS: {}}}})
    async def ask_cameras(body: AskBody, accept: Annotated[str, Header(include_in_schema=False)] = "") -> AnswerOut | Response:
        if ask is None:
            raise NotReady("this process does not answer questions; ask one with the role decode or all")
        saying = ask(body.asked())
        if body.stream or EVENTS in accept:
            return await streamed(saying)
        async with aclosing(saying):
            answers = [said async for said in saying if isinstance(said, Answer)]
        return answer_out(answers[-1])

    return router


async def streamed(saying: Saying) -> Response:
    """Words as they come, then the answer. What is known to be wrong before the first word is an error as ever, with its status."""
    first = await anext(saying)
    if isinstance(first, Answer):
        answer_out(first)
    return StreamingResponse(events(first, saying), media_type=EVENTS, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def events(first: str | Answer, saying: Saying) -> AsyncIterator[bytes]:
    """`words` again and again, then `answer`, as the same question gets without streaming, or `error`. When closed, it hangs up."""
    async with aclosing(saying):
        try:
            yield event(first)
            async for said in saying:
                yield event(said)
        except LongwatchError as error:
            yield format_sse_event(event="error", data_str=known(error)[1].model_dump_json(exclude_none=True))


def event(said: str | Answer) -> bytes:
    """As it is sent."""
    if isinstance(said, Answer):
        return format_sse_event(event="answer", data_str=answer_out(said).model_dump_json())
    return format_sse_event(event="words", data_str=WordsOut(text=said).model_dump_json())


def answer_out(answer: Answer) -> AnswerOut:
    """As it is sent. Raises NoAnswer."""
    if not answer.text.strip():
        raise NoAnswer("the model gave no words for an answer")
    return AnswerOut.of(answer)
