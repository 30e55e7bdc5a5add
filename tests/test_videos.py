"""Public benchmarks of questions about videos: their annotation files, and asking as their questions ask."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_camera import make_video
from typer.testing import CliRunner

from bench import videos
from bench.annotations import FORMATS, YES_NO, Asked, Format
from bench.videos import Marked
from model import embedded
from model.adapting.clips import BadData

MLVU = {
    "video": "ball.mp4",
    "duration": 12.0,
    "question": "Is there a person?",
    "candidates": ["yes", "no"],
    "answer": "no",
    "question_type": "plotQA",
}
RVS = {"video_id": "ball", "question": "What is there?", "answer": "A ball.", "answer_type": "scene", "end_time": 4, "start_time": 1}
RVS_VIDEO = {"video_id": "1", "video_path": "x/ball.mp4", "conversations": [{"question": "Why?", "answer": "So.", "end_time": "00:01:30"}]}
STREAMING = {
    "time": "[0:00:00 - 0:01:00]",
    "video_path": "./videos/ball.mp4",
    "questions": [
        {"task_type": "Counting", "question": "How many?", "time_stamp": "00:00:05", "answer": "B", "options": ["A. One", "B.Two"]},
        {"task_type": "Proactive", "question": "When?", "time_stamp": "01:00:05", "answer": "now"},
    ],
}
LETTERLESS = {"question": "How many?", "time_stamp": 5, "answer": "C", "options": ["A. One", "B. Two"]}
CHOSEN = {"id": 0, "task": "EPM", "video": "/mnt/ball.mp4", "realtime": 8.5, "question": "Where?", "options": ["left", "right"], "gt": 1}
COUNTING = {"id": 1, "task": "REC", "video": "ball.mp4", "activity": "clap", "test_info": [{"realtime": 3, "count": 2}]}
STEPS = {"id": 2, "task": "SSR", "video": "ball.mp4", "test_info": [{"realtime": 3, "step": "Cut it", "type": 0}]}
CLUES = {"id": 3, "task": "CRR", "video": "ball.mp4", "question": "Who?", "answer": "x", "test_info": [{"realtime": 3, "type": 1}]}


def annotated(folder: Path, *entries: Any) -> Path:
    file = folder / "annotations.json"
    file.write_text(json.dumps(entries))
    return file


def read(folder: Path, kind: Format, *entries: Any) -> list[Asked]:
    return FORMATS[kind](annotated(folder, *entries))


def test_every_format_is_read(tmp_path: Path) -> None:
    [mlvu] = read(tmp_path, Format.MLVU, MLVU)
    assert (mlvu.video, mlvu.choices, mlvu.answer, mlvu.at_s, mlvu.task) == ("ball.mp4", ("yes", "no"), "no", float("inf"), "plotQA")
    one, other = read(tmp_path, Format.RVS, RVS, RVS_VIDEO)
    assert (one.video, one.choices, one.answer, one.at_s, one.task) == ("ball", (), "A ball.", 4, "scene")
    assert (other.video, other.question, other.at_s) == ("x/ball.mp4", "Why?", 90)
    counted, when = read(tmp_path, Format.STREAMINGBENCH, STREAMING)
    assert (counted.choices, counted.answer, counted.at_s) == (("One", "Two"), "Two", 5)
    assert (when.choices, when.answer, when.at_s, when.task) == ((), "now", 3605, "Proactive")
    chosen, counting, step, clue = read(tmp_path, Format.OVOBENCH, CHOSEN, COUNTING, STEPS, CLUES)
    assert (chosen.choices, chosen.answer, chosen.at_s, chosen.task) == (("left", "right"), "right", 8.5, "EPM")
    assert (counting.answer, counting.choices) == ("2", ()) and "clap" in counting.question
    assert (step.choices, step.answer, clue.answer) == (YES_NO, "no", "yes") and "Cut it" in step.question


@pytest.mark.parametrize(
    ("kind", "entry", "said"),
    [
        (Format.MLVU, {**MLVU, "question": 7}, "entry 1: question: "),
        (Format.MLVU, {**MLVU, "answer": "perhaps"}, "entry 1: answer: is none of the candidates"),
        (Format.RVS, {**RVS, "end_time": "soon"}, "entry 1: end_time: is no time like"),
        (Format.RVS, {**RVS_VIDEO, "conversations": [{"question": "?", "answer": ""}]}, "entry 1: conversations.0.end_time: "),
        (Format.STREAMINGBENCH, {**STREAMING, "video_path": ""}, "entry 1: video_path: "),
        (Format.STREAMINGBENCH, {**STREAMING, "questions": [LETTERLESS]}, "entry 1: questions.0.answer: "),
        (Format.OVOBENCH, {**CHOSEN, "gt": 2}, "entry 1: gt: "),
        (Format.OVOBENCH, {**CHOSEN, "realtime": -1}, "entry 1: realtime: "),
        (Format.OVOBENCH, {**STEPS, "test_info": [{"realtime": 3, "step": "", "type": 0}]}, "entry 1: test_info.0.step: "),
        (Format.OVOBENCH, {**CHOSEN, "task": "XYZ"}, "entry 1: "),
    ],
)
def test_what_is_wrong_is_named_by_file_entry_and_key(tmp_path: Path, kind: Format, entry: Any, said: str) -> None:
    good = {Format.MLVU: MLVU, Format.RVS: RVS, Format.STREAMINGBENCH: STREAMING, Format.OVOBENCH: CHOSEN}[kind]
    with pytest.raises(BadData) as caught:
        read(tmp_path, kind, good, entry)
    assert str(caught.value).startswith(f"{tmp_path / 'annotations.json'}: {said}")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot be read"):
        FORMATS[Format.MLVU](tmp_path / "none.json")
    with pytest.raises(BadData, match="holds no question"):
        read(tmp_path, Format.RVS)


def test_videos_are_found_where_the_file_says_or_by_name(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("x/a.mp4", "b.mkv"):
        (tmp_path / name).touch()
    assert videos.find(tmp_path, "x/a.mp4") == videos.find(tmp_path, "./x/a") == tmp_path / "x/a.mp4"
    assert videos.find(tmp_path, "b") == videos.find(tmp_path, "/mnt/elsewhere/b.mkv") == tmp_path / "b.mkv"
    assert videos.find(tmp_path, "c") is None


@pytest.mark.gst
def test_a_question_is_asked_of_what_was_seen_by_then(tmp_path: Path) -> None:
    make_video(tmp_path / "ball.mp4", "x264enc speed-preset=ultrafast ! h264parse ! mp4mux", seconds=12, fps=5, size="width=160,height=90")
    scan = videos.load(str(embedded.FOLDER))
    asked = [
        Asked(video="ball.mp4", question="Is there a car now?", choices=YES_NO, answer="no", at_s=at_s, task="t") for at_s in (30, 4.5, 0)
    ]
    told = [(each.at_s, [carrier.key.at_ms for carrier in carriers]) for each, carriers in
            videos.watch(scan, videos.frames(tmp_path / "ball.mp4", 1), asked)]  # fmt: skip
    assert [at_s for at_s, _ in told] == [0, 4.5, 30]
    assert [len(seen) for _, seen in told] in ([1, 5, 12], [1, 5, 13])
    assert all(at_ms <= 4500 for at_ms in told[1][1])
    marks, left_out = videos.run(scan, [*asked, Asked(video="gone.mp4", question="?", answer="", task="t")], tmp_path, fps=1)
    assert [each.by for each in marks] == [Marked.YES_NO] * 3 and all(each.chance == 0.5 for each in marks)
    assert left_out == [f"1 about gone.mp4: not in {tmp_path}"]
    file, out = annotated(tmp_path, MLVU, {**MLVU, "candidates": ["a ball", "a car"], "answer": "a car"}), tmp_path / "out.json"
    for more, by in ((["--words"], "words"), ([], "letter")):
        result = CliRunner().invoke(_app(), ["mlvu", str(file), "--videos", str(tmp_path), "--json", str(out), *more])
        assert result.exit_code == 0, result.output
        rows = json.loads(out.read_text())["videos"]
        assert [(row["marked by"], row["questions"]) for row in rows] == [(by, 1), ("yes or no", 1), ("", 2)]
    nothing = CliRunner().invoke(_app(), ["mlvu", str(file), "--videos", str(tmp_path / "x")])
    assert nothing.exit_code == 2 and "nothing could be asked" in nothing.output


def _app() -> Any:
    import typer

    app = typer.Typer()
    app.command()(videos.main)
    return app
