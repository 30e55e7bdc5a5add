"""Public benchmarks of questions about videos, answered as cameras are: frame by frame into carriers, and from these alone.

    python -m bench.videos FORMAT annotations.json --videos FOLDER [--model NAME_OR_FOLDER] [--fps 1] [--json FILE]

FORMAT is mlvu (arXiv 2406.04264), rvs (VStream-QA's real-time half, arXiv 2406.08085, as published or as one list of conversations a
video), streamingbench (arXiv 2411.03628) or ovobench (arXiv 2501.05510). A question is asked when its file says so: what comes
later was not seen then. Where there are choices, the likeliest letter is the answer, or, of a model that knows no letters, what it says;
what is open is right only word for word, since the judge of the published figures is another model: do not compare those.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from bench.annotations import FORMATS, YES_NO, Asked, Format
from bench.looking import looked_at
from bench.report import console, show, write
from model import embedded, relevance
from model.backbone import Backbone
from model.videoscan import VideoScan
from pipeline.camera import GstSource
from pipeline.core import Camera, Carrier, Frame
from pipeline.errors import CameraLost

CAMERA = "film"
SUFFIXES = ("", ".mp4", ".mkv", ".avi", ".mov", ".webm")


class Marked(StrEnum):
    """How an answer is told right from wrong."""

    LETTER = "letter"
    YES_NO = "yes or no"
    WORDS = "words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How one question went."""

    task: str
    by: Marked
    right: bool
    chance: float


def find(folder: Path, name: str) -> Path | None:
    """The video in a folder: where its annotation says, or by its file's name alone, with or without a suffix."""
    for place in (folder / name.lstrip("/"), folder / Path(name).name):
        for suffix in SUFFIXES:
            if (video := place.with_name(place.name + suffix)).is_file():
                return video
    return None


def frames(video: Path, fps: float) -> Iterator[Frame]:
    """The pictures of a film as a camera would give them, dated from its beginning. Raises CameraLost."""
    source = GstSource(Camera(id=CAMERA, uri=video.resolve().as_uri(), fps=fps), in_time=False)
    for frame in source.frames():
        yield Frame(camera_id=CAMERA, pts_ns=frame.pts_ns, captured_ms=frame.pts_ns // 1_000_000, image=frame.image)


def watch(scan: VideoScan, pictures: Iterable[Frame], asked: Sequence[Asked]) -> Iterator[tuple[Asked, list[Carrier]]]:
    """Every question with the carriers that there are when it is asked; one asked before the first picture waits for that."""
    waiting = sorted(asked, key=lambda each: each.at_s)
    memory, kept = scan.memory(), list[Carrier]()
    for frame in pictures:
        while kept and waiting and waiting[0].at_s * 1000 < frame.captured_ms:
            yield waiting.pop(0), list(kept)
        [carrier] = scan.prefill([frame], [memory])
        memory.add(carrier)
        kept.append(carrier)
    if kept:
        yield from ((each, list(kept)) for each in waiting)


def letters(backbone: Backbone, count: int) -> list[list[int]] | None:
    """How the first so many letters may begin as an answer; None of a model that cannot tell them apart."""
    names = [chr(ord("A") + i) for i in range(count)]
    spelt = [sorted({backbone.tokenizer(form, add_special_tokens=False).input_ids[0] for form in (n, f" {n}")}) for n in names]
    flat = [token for tokens in spelt for token in tokens]
    unknown = backbone.tokenizer.unk_token_id
    return spelt if len(set(flat)) == len(flat) and unknown not in flat else None


def mark(scan: VideoScan, asked: Asked, carriers: Sequence[Carrier], words: bool = False) -> Mark:
    """Ask one question; with `words` no choices are given, and what is said must be the right one."""
    seen = looked_at(scan, asked.question, carriers)
    if asked.choices == YES_NO:
        by, right = Marked.YES_NO, scan.judge([asked.question], [seen])[0].text == asked.answer
    elif not words and asked.choices and (spelt := letters(scan.backbone, len(asked.choices))):
        listed = "\n".join(f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(asked.choices))
        told, _ = scan.read([f"{asked.question}\n{listed}\nAnswer with the option's letter."], [seen])
        scores = [float(told.logits[0, tokens].logsumexp(0)) for tokens in spelt]
        by, right = Marked.LETTER, asked.choices[int(np.argmax(scores))] == asked.answer
    else:
        by, right = Marked.WORDS, plain(scan.decode(asked.question, seen).text) == plain(asked.answer)
    return Mark(task=asked.task, by=by, right=right, chance=1 / len(asked.choices) if asked.choices else 0.0)


def plain(words: str) -> str:
    """Words alone, without case, articles and punctuation."""
    return " ".join(re.sub(r"\b(a|an|the)\b|[^\w\s]", " ", words.lower()).split())


def run(scan: VideoScan, asked: Sequence[Asked], folder: Path, fps: float, words: bool = False) -> tuple[list[Mark], list[str]]:
    """All marks, and why questions were left out, a line for each video of such."""
    videos: defaultdict[str, list[Asked]] = defaultdict(list)
    for each in asked:
        videos[each.video].append(each)
    marks: list[Mark] = []
    left_out: list[str] = []
    for name, own in track(videos.items(), description="watching", console=console):
        if (video := find(folder, name)) is None:
            left_out.append(f"{len(own)} about {name}: not in {folder}")
            continue
        had = len(marks)
        try:
            marks += (mark(scan, *each, words) for each in watch(scan, frames(video, fps), own))
        except CameraLost as error:
            left_out.append(f"{len(own) - len(marks) + had} about {name}: {error}")
    return marks, left_out


def table(marks: Sequence[Mark]) -> list[list[object]]:
    """Rows: task, how it is marked, questions, right, what guessing gets; the last is all together."""
    groups: defaultdict[tuple[str, str], list[Mark]] = defaultdict(list)
    for each in marks:
        groups[each.task, each.by].append(each)
    return [_row(task, by, some) for (task, by), some in sorted(groups.items())] + [_row("all", "", marks)]


def _row(task: str, by: str, marks: Sequence[Mark]) -> list[object]:
    return [task, str(by), len(marks), float(np.mean([m.right for m in marks])), float(np.mean([m.chance for m in marks]))]


def load(model: str) -> VideoScan:
    """By name or folder, with its head for relevance where the folder has one."""
    backbone = Backbone.load(model)
    return VideoScan(backbone, relevance=relevance.load(backbone, model))


def main(
    kind: Annotated[Format, typer.Argument(metavar="FORMAT")],
    annotations: Path,
    videos: Annotated[Path, typer.Option(help="Folder with the videos.")],
    model: Annotated[str, typer.Option(help="Hugging Face name or folder.")] = str(embedded.FOLDER),
    fps: Annotated[float, typer.Option(help="Pictures a second that are looked at.")] = 1.0,
    words: Annotated[bool, typer.Option(help="Never by letters: what is said must be the right choice.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print how often the model is right, by task."""
    scan = load(model)
    marks, left_out = run(scan, FORMATS[kind](annotations), videos, fps, words)
    if not marks:
        raise typer.BadParameter(f"nothing could be asked: {'; '.join(left_out[:3]) or 'no questions'}", param_hint="--videos")
    columns = ("task", "marked by", "questions", "right", "guessing")
    rows = table(marks)
    told = [f"model {scan.fingerprint}, {model}; {fps:g} pictures a second", *(f"left out: {line}" for line in left_out)]
    show(f"{kind}: {annotations.name}", columns, rows, told)
    result: dict[str, Any] = {"videos": [dict(zip(columns, row, strict=True)) for row in rows], "left_out": left_out}
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
