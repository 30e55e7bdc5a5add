"""The annotation files of public benchmarks, read into questions. Keys that are of no use here are passed over."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError

from model.adapting.clips import BadData

YES_NO = ("yes", "no")
LETTERED = re.compile(r"^\(?([A-Z])[.):]\s*")

Words = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question about a video, when it is asked, and its true answer: one of the choices, if there are any."""

    video: str  # as its file names it
    question: str
    choices: tuple[str, ...] = ()
    answer: str
    at_s: float = inf  # seconds from the video's beginning; by default at its end
    task: str


class Format(StrEnum):
    """Whose annotations."""

    MLVU = "mlvu"
    RVS = "rvs"
    STREAMINGBENCH = "streamingbench"
    OVOBENCH = "ovobench"


def seconds(value: object) -> object:
    """Of h:mm:ss, mm:ss or a number."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", value):
        raise ValueError("is no time like 00:01:30")
    total = 0.0
    for part in value.split(":"):
        total = 60 * total + float(part)
    return total


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0)]


class _Entry(Protocol):
    def asked(self) -> Iterator[Asked]:
        """Its questions. Raises ValueError for an answer that is none of the choices."""
        ...


class _Mlvu(BaseModel):
    """{"video": "a.mp4", "question": "...", "candidates": ["...", ...], "answer": "...", "question_type": "plotQA"}: asked at the end."""

    video: Words
    question: Words
    candidates: tuple[Words, ...] = ()
    answer: str
    question_type: str = "mlvu"

    def asked(self) -> Iterator[Asked]:
        if self.candidates and self.answer not in self.candidates:
            raise ValueError("answer: is none of the candidates")
        yield Asked(video=self.video, question=self.question, choices=self.candidates, answer=self.answer, task=self.question_type)


class _Turn(BaseModel):
    question: Words
    answer: str
    end_time: Seconds
    answer_type: str = "open"


class _RvsVideo(BaseModel):
    """{"video_path": "a.mp4", "conversations": [{"question": "...", "answer": "...", "end_time": 90}, ...]}."""

    video_path: Words
    conversations: tuple[_Turn, ...]

    def asked(self) -> Iterator[Asked]:
        for turn in self.conversations:
            yield Asked(video=self.video_path, question=turn.question, answer=turn.answer, at_s=turn.end_time, task=turn.answer_type)


class _Rvs(_Turn):
    """{"video_id": "a", "question": "...", "answer": "...", "answer_type": "...", "end_time": 90}, as published."""

    video_id: Words

    def asked(self) -> Iterator[Asked]:
        yield Asked(video=self.video_id, question=self.question, answer=self.answer, at_s=self.end_time, task=self.answer_type)


class _Timed(BaseModel):
    task_type: str = "streamingbench"
    question: Words
    time_stamp: Seconds
    answer: str
    options: tuple[Words, ...] = ()


class _Streaming(BaseModel):
    """{"video_path": "a.mp4", "questions": [{"question": "...", "time_stamp": "00:00:50", "options": ["A. ..."], "answer": "A"}]}."""

    video_path: Words
    questions: tuple[_Timed, ...]

    def asked(self) -> Iterator[Asked]:
        for i, each in enumerate(self.questions):
            answer = each.answer.strip()
            choices = tuple(LETTERED.sub("", option) for option in each.options)
            if choices:
                place = ord(answer[0]) - ord("A") if LETTERED.match(f"{answer}.") or LETTERED.match(answer) else -1
                if not 0 <= place < len(choices):
                    raise ValueError(f"questions.{i}.answer: is the letter of none of the options")
                answer = choices[place]
            yield Asked(
                video=self.video_path, question=each.question, choices=choices, answer=answer, at_s=each.time_stamp, task=each.task_type
            )


class _Chosen(BaseModel):
    """{"task": "EPM", "video": "a.mp4", "realtime": 215, "question": "...", "options": ["...", ...], "gt": 2}."""

    task: Literal["EPM", "ASI", "HLD", "STU", "OJR", "ATR", "ACR", "OCR", "FPD"]
    video: Words
    realtime: Seconds
    question: Words
    options: Annotated[tuple[Words, ...], Field(min_length=2)]
    gt: Annotated[int, Field(ge=0)]

    def asked(self) -> Iterator[Asked]:
        if self.gt >= len(self.options):
            raise ValueError("gt: is the number of none of the options")
        yield Asked(
            video=self.video,
            question=self.question,
            choices=self.options,
            answer=self.options[self.gt],
            at_s=self.realtime,
            task=self.task,
        )


class _Counted(BaseModel):
    realtime: Seconds
    count: int


class _Counting(BaseModel):
    """{"task": "REC", "video": "a.mp4", "activity": "clap", "test_info": [{"realtime": 9, "count": 2}, ...]}."""

    task: Literal["REC"]
    video: Words
    activity: Words
    test_info: tuple[_Counted, ...]

    def asked(self) -> Iterator[Asked]:
        question = f"How many times did they {self.activity}? Answer with a number."
        for each in self.test_info:
            yield Asked(video=self.video, question=question, answer=str(each.count), at_s=each.realtime, task=self.task)


def _word(yes: int) -> str:
    return "yes" if yes else "no"


class _Stepped(BaseModel):
    realtime: Seconds
    step: Words
    type: Literal[0, 1]


class _Steps(BaseModel):
    """{"task": "SSR", "video": "a.mp4", "test_info": [{"realtime": 9, "step": "...", "type": 0}, ...]}; type 1: it is being done."""

    task: Literal["SSR"]
    video: Words
    test_info: tuple[_Stepped, ...]

    def asked(self) -> Iterator[Asked]:
        for each in self.test_info:
            question = f"Is this step being carried out now: {each.step}?"
            yield Asked(
                video=self.video, question=question, choices=YES_NO, answer=YES_NO[1 - each.type], at_s=each.realtime, task=self.task
            )


class _Told(BaseModel):
    realtime: Seconds
    type: Literal[0, 1]


class _Clues(BaseModel):
    """{"task": "CRR", "video": "a.mp4", "question": "...", "test_info": [{"realtime": 9, "type": 0}, ...]}; type 1: it can be answered."""

    task: Literal["CRR"]
    video: Words
    question: Words
    test_info: tuple[_Told, ...]

    def asked(self) -> Iterator[Asked]:
        question = f"Has enough been seen by now to answer this: {self.question}"
        for each in self.test_info:
            yield Asked(
                video=self.video, question=question, choices=YES_NO, answer=YES_NO[1 - each.type], at_s=each.realtime, task=self.task
            )


def _rvs(value: object) -> str:
    return "_video" if isinstance(value, dict) and "conversations" in value else "_question"


_AnyRvs = Annotated[Annotated[_RvsVideo, Tag("_video")] | Annotated[_Rvs, Tag("_question")], Discriminator(_rvs)]
_Ovo = Annotated[_Chosen | _Counting | _Steps | _Clues, Field(discriminator="task")]
Kind = TypeVar("Kind", bound=_Entry)


def _read(entries: TypeAdapter[list[Kind]]) -> Callable[[Path], list[Asked]]:
    def read(file: Path) -> list[Asked]:
        """All questions of a file. Raises BadData, which names file, entry and key."""
        try:
            found = entries.validate_json(file.read_bytes())
        except OSError as error:
            raise BadData(f"{file}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise BadData(f"{file}: {_in_words(error)}") from None
        asked: list[Asked] = []
        for i, entry in enumerate(found):
            try:
                asked += entry.asked()
            except ValueError as error:
                raise BadData(f"{file}: entry {i}: {error}") from None
        if not asked:
            raise BadData(f"{file}: holds no question")
        return asked

    return read


def _in_words(error: ValidationError) -> str:
    """The first mistake with its place; values are left out."""
    first = error.errors(include_url=False, include_input=False)[0]
    entry, *where = first["loc"] or ("",)
    place = f"entry {entry}: " if isinstance(entry, int) else ""
    keys = ".".join(str(each) for each in where if isinstance(each, int) or not (each.startswith("_") or each.isupper()))  # no tags
    return f"{place}{keys}{': ' if keys else ''}{first['msg'].removeprefix('Value error, ')}"


FORMATS: dict[Format, Callable[[Path], list[Asked]]] = {
    Format.MLVU: _read(TypeAdapter(list[_Mlvu])),
    Format.RVS: _read(TypeAdapter(list[_AnyRvs])),
    Format.STREAMINGBENCH: _read(TypeAdapter(list[_Streaming])),
    Format.OVOBENCH: _read(TypeAdapter(list[_Ovo])),
}
