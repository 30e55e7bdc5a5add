"""What backbones are taught from: annotated videos, simulated sites, and the order in which they are shown."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_camera import make_video

from model.adapting.clips import BadClip, BadData, Clip, Feed, NothingToLearn, Several
from model.adapting.llava_video import LlavaVideo
from model.adapting.simulated import Simulated
from pipeline.errors import CameraLost
from pipeline.film import film

SYSTEM = {"from": "system", "value": "x"}
TURNS = [
    {"from": "human", "value": "<image>\nWhat moves?"},
    {"from": "gpt", "value": "A ball."},
    {"from": "human", "value": "How many?\nA. One\nB. Two"},
    {"from": "gpt", "value": "A."},
]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of a moving ball, in a name that a URL would have to escape."""
    path = tmp_path_factory.mktemp("videos") / "ball #1?.mp4"
    return make_video(path, "x264enc speed-preset=ultrafast ! h264parse ! mp4mux", seconds=60, fps=5, size="width=160,height=90")


def annotated(folder: Path, *entries: Any) -> Path:
    file = folder / "annotations.json"
    file.write_text(json.dumps(entries))
    return file


def test_a_film_is_read_faster_than_it_plays_and_whole(video: Path) -> None:
    began = time.monotonic()
    pictures = film(video, fps=1, most=100)
    assert time.monotonic() - began < 30
    assert len(pictures) in (60, 61) and all(picture.shape == (90, 160, 3) for picture in pictures)


def test_a_long_film_is_thinned_evenly(video: Path) -> None:
    whole, thin = film(video, fps=1, most=100), film(video, fps=1, most=7)
    places = [next(i for i, picture in enumerate(whole) if np.array_equal(picture, each)) for each in thin]
    assert len(places) == 7 and places[0] == 0 and places[-1] >= len(whole) - 8
    assert np.ptp(np.diff(places)) <= 8, "as even as a grid of eight allows"


def test_what_is_no_film_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(CameraLost):
        film(tmp_path / "a.mp4", fps=1, most=4)


def test_conversations_become_questions(video: Path) -> None:
    file = annotated(video.parent, {"id": "1", "data_source": "d", "video": video.name, "conversations": TURNS})
    clips = LlavaVideo(file, partial(film, fps=1, most=8))
    clip = clips.clip(0)
    assert len(clips) == 1 and len(clip.frames) == 8
    assert [(each.question, each.answer, each.over) for each in clip.asked] == [
        ("What moves?", "A ball.", None),
        ("How many?\nA. One\nB. Two", "A.", None),
    ]


GOOD = {"video": "a.mp4", "conversations": TURNS}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{", "Invalid JSON"),
        ("{}", "Input should be a valid array"),
        ("[]", "holds no entry"),
        (json.dumps([GOOD, {"conversations": TURNS}]), "entry 1: video: Field required"),
        (json.dumps([{"video": "a.mp4"}, {}]), r"entry 0: conversations: Field required \(and 2 more mistakes\)"),
        (json.dumps([GOOD | {"conversations": TURNS[:3]}]), "entry 0: conversations: human and gpt must speak in turn"),
        (json.dumps([GOOD | {"conversations": []}]), "entry 0: conversations: human and gpt must speak in turn"),
        (json.dumps([GOOD | {"conversations": [SYSTEM]}]), "entry 0: conversations.0.from: Input should be 'human' or"),
        (json.dumps([GOOD | {"conversations": [{"from": "human", "value": "<image>"}, TURNS[1]]}]), "every turn must say something"),
    ],
)  # fmt: skip
def test_wrong_annotations_are_refused_with_file_and_entry(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_text(content)
    with pytest.raises(BadData, match=f"annotations.json: .*{said}"):
        LlavaVideo(file, partial(film, fps=1, most=8))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="gone.json: cannot be read: No such file"):
        LlavaVideo(tmp_path / "gone.json", partial(film, fps=1, most=8))


def test_videos_that_cannot_be_shown_are_skipped_and_counted(video: Path) -> None:
    (video.parent / "damaged.mp4").write_bytes(b"no film")
    names = ("gone.mp4", video.name, "damaged.mp4")
    file = annotated(video.parent, *({"video": name, "conversations": TURNS} for name in names))
    feed = Feed(LlavaVideo(file, partial(film, fps=1, most=2)), seed=0)
    assert len([next(feed) for _ in range(2)]) == 2
    assert {reason.split(", ")[1].split(":")[0] for reason in feed.skipped} <= {"entry 0", "entry 2"} and len(feed.skipped) >= 2
    hopeless = Feed(LlavaVideo(annotated(video.parent, GOOD), partial(film, fps=1, most=2)), seed=0)
    with pytest.raises(NothingToLearn, match=r"of 1 clips none can be shown; the last: .*annotations.json, entry 0: no video .*a.mp4"):
        next(hopeless)


class Numbers:
    """Clips that are known by their number; every fourth cannot be shown."""

    def __init__(self, count: int = 10) -> None:
        self.count, self.shown = count, list[int]()

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int) -> Clip:
        if index % 4 == 3:
            raise BadClip(str(index))
        self.shown.append(index)
        return Clip(frames=(), asked=())


def test_every_clip_is_shown_once_a_round_in_a_new_order_each_time() -> None:
    numbers = Numbers()
    feed = Feed(numbers, seed=0)
    for _ in range(16):
        next(feed)
    first, second = numbers.shown[:8], numbers.shown[8:]
    assert sorted(first) == sorted(second) == [0, 1, 2, 4, 5, 6, 8, 9] and first != second


def test_workers_share_the_clips_and_a_feed_goes_on_where_it_stopped() -> None:
    shared = [Numbers(), Numbers()]
    for worker, numbers in enumerate(shared):
        feed = Feed(numbers, seed=0, worker=worker, workers=2)
        for _ in range(3):
            next(feed)
        again = Feed(numbers, seed=0, taken=feed.taken, worker=worker, workers=2)
        next(again)
    whole = [Numbers(), Numbers()]
    for worker, numbers in enumerate(whole):
        feed = Feed(numbers, seed=0, worker=worker, workers=2)
        for _ in range(4):
            next(feed)
    assert [numbers.shown for numbers in shared] == [numbers.shown for numbers in whole]
    assert not set(shared[0].shown[:3]) & set(shared[1].shown[:3])


def test_several_sources_are_one() -> None:
    sources = [Numbers(3), Numbers(2)]
    several = Several(sources)
    for index in (0, 2, 3, 4):
        several.clip(index)
    assert len(several) == 5 and [source.shown for source in sources] == [[0, 2], [0, 1]]


def test_simulated_clips_are_the_same_each_time_and_ask_about_what_they_show() -> None:
    clips = Simulated(sites=3, frames=4)
    one, again = clips.clip(1), clips.clip(1)
    assert one.asked == again.asked and all(np.array_equal(a, b) for a, b in zip(one.frames, again.frames, strict=True))
    assert len(one.frames) == 4 and one.frames[0].shape == (360, 640, 3) and len(one.asked) >= 3
    assert all(each.over and set(each.over) <= set(range(4)) for each in one.asked)
    assert not np.array_equal(one.frames[0], clips.clip(2).frames[0])
