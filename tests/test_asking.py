"""Questions over HTTP: whole answers, words as they come, and askers who hang up."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import pytest
from carriers import Word, carrier, eventually
from prometheus_client import CollectorRegistry
from web_fakes import SECRET, T0, FakeAsk, FakeRegistry, FakeStore, Site, jpeg, serving

from actors.asking import Asking, watched
from actors.tracing import Off, Trace
from pipeline.batching import Batching, Seat
from pipeline.core import Answer, Carrier, Question, StoreUnavailable, TooLate
from web.api import create_app
from web.guard import Busy, NotReady
from web.schemas import iso


@pytest.fixture
def site() -> Iterator[Site]:
    yield Site()


def raising(error: Exception, *before: str) -> Callable[[Question], AsyncGenerator[str | Answer, None]]:
    async def ask(_: Question) -> AsyncGenerator[str | Answer, None]:
        for words in before:
            yield words
        raise error

    return ask


def test_an_answer_comes_with_its_evidence_and_its_gaps(site: Site) -> None:
    said = site("POST", "/v1/ask", json={"question": " What is at the gate? ", "cameras": ["gate"]}).json()
    assert said["answer"] == "A red truck is at the gate."
    assert (said["probability"], said["cameras"], said["carriers"], said["took_ms"]) == (0.91, ["gate", "yard"], 48, 132.4)
    evidence = said["evidence"][0]
    assert evidence == {
        "camera": "gate",
        "at": "2023-11-14T22:13:20.000Z",
        "at_ms": T0,
        "start": iso(T0 - 500),
        "end": iso(T0 + 500),
        "score": 0.6,
        "picture": f"/v1/frames/gate/{T0}.jpg",
    }
    assert site("GET", evidence["picture"]).content == jpeg("gate")
    assert said["gaps"][0]["reason"].startswith("camera offline")
    assert site.ask.asked == [Question(text="What is at the gate?", cameras=("gate",))]


def test_the_time_asked_about_reaches_the_model(site: Site) -> None:
    site("POST", "/v1/ask", json={"question": "q", "since": T0 / 1000, "until": "2023-11-14T23:13:25+01:00"})
    when = site.ask.asked[0].when
    assert when is not None and (when.start_ms, when.end_ms) == (T0, T0 + 5000)
    site("POST", "/v1/ask", json={"question": "q", "since": "-15m"})
    when = site.ask.asked[1].when
    assert when is not None and 0 <= when.end_ms - when.start_ms - 900_000 < 60_000


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"question": ""},
        {"question": "  "},
        {"question": "q" * 501},
        {"question": "q", "cameras": ["../etc"]},
        {"question": "q", "since": "soon"},
        {"question": "q", "since": 20, "until": 10},
        {"question": "q", "extra": 1},
    ],
)
def test_a_bad_question_is_refused(site: Site, body: dict[str, Any]) -> None:
    assert site.fails("POST", "/v1/ask", json=body) == (422, "Invalid")
    assert not site.ask.asked


def test_nothing_remembered_is_said_as_such(site: Site) -> None:
    response = site("POST", "/v1/ask", json={"question": "an elephant?"})
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "nothing is remembered of gate between 08:00:00 and 09:00:00"
    assert response.json()["error"]["hint"]


def test_an_answer_without_words_is_an_error() -> None:
    assert Site(ask=FakeAsk(text=" ")).fails("POST", "/v1/ask", json={"question": "q"}) == (502, "NoAnswer")


def test_a_defect_is_an_error_that_shows_nothing() -> None:
    assert Site(ask=raising(RuntimeError(SECRET))).fails("POST", "/v1/ask", json={"question": "q"}) == (500, "Internal")


def test_a_question_too_many_is_refused_and_told_when_to_come_back() -> None:
    response = Site(ask=raising(Busy("as many questions wait as are let in")))("POST", "/v1/ask", json={"question": "q"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.json()["error"]["type"] == "Busy"


# Words as they come

STREAM = {"question": "What is at the gate?", "stream": True}


def heard(text: str) -> list[tuple[str, Any]]:
    """Server-sent events: name and data."""
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


@pytest.mark.parametrize("sent", [{"json": STREAM}, {"json": {"question": "q"}, "headers": {"Accept": "text/event-stream"}}])
def test_words_come_before_the_answer_which_is_that_of_the_same_question_unstreamed(site: Site, sent: dict[str, Any]) -> None:
    response = site("POST", "/v1/ask", **sent)
    assert response.headers["content-type"].startswith("text/event-stream") and response.headers["cache-control"] == "no-store"
    *words, (last, answer) = heard(response.text)
    assert [(name, data["text"]) for name, data in words] == [("words", w) for w in ("A ", "red ", "truck ", "is ", "at ", "the ")]
    assert (last, answer) == ("answer", site("POST", "/v1/ask", json={"question": "q"}).json())


def test_what_is_wrong_before_the_first_word_has_its_status_and_after_it_is_an_event() -> None:
    busy, lost = Busy("as many wait as are let in"), StoreUnavailable(f"cannot reach {SECRET}")
    assert Site(ask=raising(busy)).fails("POST", "/v1/ask", json=STREAM) == (429, "Busy")
    assert Site(ask=FakeAsk(text=" ")).fails("POST", "/v1/ask", json={"question": "q", "stream": False}) == (502, "NoAnswer")
    (words, _), (name, told) = heard(Site(ask=raising(lost, "A red "))("POST", "/v1/ask", json=STREAM).text)
    assert (words, name, told["error"]["type"]) == ("words", "error", "StoreUnavailable")
    assert told["error"]["hint"]


# Askers who hang up


class Endless:
    """Says a word more at every turn to everybody, for ever."""

    def __init__(self) -> None:
        self.there: dict[Seat, int] = {}

    def turn(self, joining: Mapping[Seat, tuple[str, Sequence[Carrier]]], leaving: Collection[Seat]) -> dict[Seat, Word]:
        time.sleep(0.01)  # as a model takes its time: what nobody reads would else pile up by the gigabyte
        self.there = {seat: n + 1 for seat, n in (self.there | dict.fromkeys(joining, 0)).items() if seat not in leaving}
        return {seat: Word("w " * n) for seat, n in self.there.items()}


def test_who_hangs_up_leaves_the_batch_and_the_others_go_on() -> None:
    endless, left, registry = Endless(), list[str](), CollectorRegistry()
    batching = Batching(lambda: endless, left=left.append)

    async def speak(question: Question, _: Trace) -> AsyncGenerator[str | Answer, None]:
        shown = ""
        async for said in batching.ask(question.text, [carrier(1)], within_s=60):
            yield said.text[len(shown) :]
            shown = said.text
            await asyncio.sleep(0.001)

    def cancelled() -> float:
        return registry.get_sample_value("longwatch_questions_total", {"outcome": "cancelled"}) or 0

    app = create_app(FakeRegistry(), FakeStore(), partial(watched, speak, Asking(registry), Off()))
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        with client.stream("POST", "/v1/ask", json=STREAM) as stays:
            lines = stays.iter_lines()
            assert next(lines) == "event: words"
            with client.stream("POST", "/v1/ask", json=STREAM) as goes:
                assert next(goes.iter_lines()) == "event: words"
                eventually(lambda: len(endless.there) == 2)
            eventually(lambda: len(endless.there) == 1 and left == ["cancelled"] and cancelled() == 1)
            for _ in range(20):
                next(lines)
        eventually(lambda: not endless.there and left == ["cancelled"] * 2 and cancelled() == 2)


# Asking the decode plane


class Replica:
    """Stands for Serve's handle, and for what it returns."""

    cancelled = False

    def options(self, *, stream: bool) -> "Replica":
        assert stream
        return self

    @property
    def answer(self) -> "Replica":
        return self

    def remote(self, *_: object) -> "Replica":
        return self

    def cancel(self) -> None:
        self.cancelled = True


def test_a_question_that_finds_nobody_to_decode_is_refused_with_a_reason() -> None:
    from ray.exceptions import ActorDiedError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    from actors.api import ask_decode

    class Gone(Replica):
        def __init__(self, error: Exception) -> None:
            self._error = error

        async def __anext__(self) -> str:
            raise self._error

    for error in (ActorDiedError(), DeploymentUnavailableError("decode")):
        with pytest.raises(NotReady, match=type(error).__name__):
            asyncio.run(anext(ask_decode(Gone(error), Question(text="What?"), Trace.new())))
    with pytest.raises(Busy):
        asyncio.run(anext(ask_decode(Gone(BackPressureError(64, 64)), Question(text="What?"), Trace.new())))


@pytest.mark.parametrize("words", [0, 1])
def test_a_question_waits_so_long_and_no_longer_and_is_cancelled(monkeypatch: pytest.MonkeyPatch, words: int) -> None:
    from actors import api

    class Slow(Replica):
        said = 0

        async def __anext__(self) -> str:
            if self.said == words:
                await asyncio.Event().wait()
            self.said += 1
            return "word"

    async def listen(replica: Replica) -> None:
        async for _ in api.ask_decode(replica, Question(text="What?"), Trace.new()):
            pass

    async def hang_up(replica: Replica) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(listen(replica), 0.05)

    monkeypatch.setattr(api, "DEADLINE_S", 0.05)
    with pytest.raises(TooLate, match="within 0.05 s"):
        asyncio.run(listen(late := Slow()))
    monkeypatch.setattr(api, "DEADLINE_S", 60)
    asyncio.run(hang_up(hung := Slow()))
    assert late.cancelled and hung.cancelled
