"""The command line against a real API."""

from collections.abc import AsyncGenerator, Iterator

import pytest
from typer.testing import CliRunner
from web_fakes import T0, FakeAsk, FakeRegistry, FakeStore, serving

from actors.cli import app
from pipeline.core import Answer, Question
from web.api import create_app
from web.schemas import iso


@pytest.fixture
def address() -> Iterator[str]:
    api = create_app(FakeRegistry(), FakeStore({("gate", T0): b"", ("gate", T0 + 5000): b""}), FakeAsk(), token="t0ken")
    with serving(api) as url:
        yield url


def test_what_is_remembered_is_shown_by_camera(address: str) -> None:
    said = CliRunner().invoke(app, ["memory", "--url", address, "--token", "t0ken"], env={"COLUMNS": "240"})
    assert said.exit_code == 0
    gate = next(line for line in said.output.splitlines() if "gate" in line)
    assert iso(T0) in gate and iso(T0 + 5000) in gate and "lost" in gate
    assert any("yard" in line for line in said.output.splitlines())


def test_a_question_is_answered_in_words_with_its_evidence(address: str) -> None:
    said = CliRunner().invoke(app, ["ask", "What is at the gate?", "--url", address, "--token", "t0ken"], env={"COLUMNS": "240"})
    assert said.exit_code == 0
    first, evidence, *_, gap = said.output.splitlines()
    assert first.strip() == "A red truck is at the gate.  (probability 0.91, 132 ms, the first word after 42 ms, training-free)"
    assert iso(T0) in evidence and f"{address}/v1/frames/gate/{T0}.jpg" in evidence and "camera offline" in gap


def test_a_question_that_cannot_be_answered_says_why(address: str) -> None:
    said = CliRunner().invoke(app, ["ask", "An elephant?", "--url", address, "--token", "t0ken"])
    assert said.exit_code == 1 and "nothing is remembered of gate" in str(said.exception)


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    async def breaks_off(_: Question) -> AsyncGenerator[str | Answer, None]:
        yield "A red "

    with serving(create_app(FakeRegistry(), FakeStore(), breaks_off)) as url:
        said = CliRunner().invoke(app, ["ask", "What?", "--url", url])
    assert said.exit_code == 1 and "broke off" in str(said.exception)
