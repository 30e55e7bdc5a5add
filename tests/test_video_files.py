"""Frames out of video files, which play once and at their own pace, and out of what only passes for one."""

import time
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from test_camera import make_video, source

from pipeline.core import Frame
from pipeline.errors import CameraLost

pytestmark = pytest.mark.gst


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a.mp4", "x264enc ! h264parse ! mp4mux"),
        ("a.mkv", "x265enc log-level=none speed-preset=ultrafast ! h265parse ! matroskamux"),
        ("a.ts", "x264enc ! h264parse ! mpegtsmux"),
        ("a.avi", "jpegenc ! avimux"),
    ],
)
def test_a_file_plays_once_in_real_time(tmp_path: Path, name: str, encode: str) -> None:
    path = make_video(tmp_path / name, encode)
    began_ms, frames, came_ms = time.time() * 1000, list[Frame](), list[float]()
    for frame in source(str(path) if name != "a.mkv" else path.as_uri(), fps=5).frames():
        frames.append(frame)
        came_ms.append(time.time() * 1000)
    assert 4 <= len(frames) <= 6
    assert all(frame.image.shape == (180, 320, 3) and frame.image.any() for frame in frames)
    steps_ms = [b.captured_ms - a.captured_ms for a, b in pairwise(frames)]
    assert max(steps_ms) <= 260 and np.median(steps_ms) == pytest.approx(200, abs=30), "one may be short: the grid moves once"
    assert came_ms[-1] - began_ms > 600
    assert all(began_ms - 1 < frame.captured_ms <= came for frame, came in zip(frames, came_ms, strict=True)), "when each was due"


def test_a_large_picture_is_scaled_and_keeps_its_shape(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", "x264enc speed-preset=ultrafast ! mp4mux", seconds=0.2, size="width=1280,height=962")
    assert next(source(str(path)).frames()).image.shape == (480, 640, 3)


def make_damaged(path: Path) -> None:
    make_video(path, "x264enc ! h264parse ! mp4mux")
    content = bytearray(path.read_bytes())
    at = content.index(b"mdat") + 4
    end = at + int.from_bytes(content[at - 8 : at - 4]) - 8
    content[at:end] = bytes(end - at)
    path.write_bytes(content)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.mp4": (lambda path: None, "404"),
    "vp8.webm": (lambda path: make_video(path, "vp8enc deadline=1 ! webmmux"), "set it to H.264"),
    "noise.mp4": (lambda path: path.write_bytes(np.random.default_rng(1).bytes(50_000)), "."),
    "words.mp4": (lambda path: path.write_text("not a film at all " * 99), "text"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "."),
    "sound.ogg": (lambda path: make_video(path, "fakesink audiotestsrc num-buffers=20 ! vorbisenc ! oggmux", fps=1), "no video|no picture"),
    "damaged.mp4": (make_damaged, "damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    make, words = FILES[name]
    make(tmp_path / name)
    with pytest.raises(CameraLost, match=words):
        list(source(str(tmp_path / name), fps=30, silence_s=20).frames())


@pytest.mark.footage
def test_real_footage_plays_at_one_frame_a_second(footage: Path) -> None:
    frames = list(islice(source(str(footage / "car-detection.mp4")).frames(), 4))
    assert [b.captured_ms - a.captured_ms for a, b in pairwise(frames)] == pytest.approx([1000] * 3, abs=150)
