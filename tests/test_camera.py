"""Frames out of real RTSP servers and real files."""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from odd_camera import OddCamera
from rtsp_site import SiteProcess, draw_clock, read_clock

from pipeline.core import BadCamera, Camera, Frame
from pipeline.errors import CameraLost

if os.environ.get("CI") != "true":
    pytest.importorskip("gi")
import gi  # noqa: E402

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

from pipeline import camera as camera_module  # noqa: E402
from pipeline.camera import GstSource  # noqa: E402
from simulator.rtsp import RtspSite  # noqa: E402

pytestmark = pytest.mark.gst
SECOND = 1_000_000_000


def source(uri: str, fps: float = 1.0, silence_s: float = 10.0) -> GstSource:
    return GstSource(Camera(id="dock", uri=uri, fps=fps), silence_s=silence_s)


def connected(camera: GstSource) -> Iterator[Frame]:
    """Its frames. A server that is just about to stop filming, since nobody watched any more, refuses whoever comes; it is asked again."""
    for _ in range(200):
        frames = camera.frames()
        try:
            yield next(frames)
        except CameraLost as error:
            if "(503)" not in str(error):
                raise
            threading.Event().wait(0.1)
        else:
            yield from frames
            return
    raise AssertionError("refused again and again")


def make_video(path: Path, encode: str, *, seconds: float = 1, fps: int = 10, size: str = "width=320,height=180") -> Path:
    count = round(seconds * fps)
    launch = f"videotestsrc num-buffers={count} pattern=ball ! video/x-raw,format=I420,{size},framerate={fps}/1 ! {encode}"
    pipeline = Gst.parse_launch(f'{launch} ! filesink location="{path}"')
    pipeline.set_state(Gst.State.PLAYING)
    message = pipeline.get_bus().timed_pop_filtered(120 * SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    assert message is not None and message.type == Gst.MessageType.EOS
    return path


@pytest.fixture(scope="module")
def site() -> Iterator[SiteProcess]:
    with SiteProcess() as process:
        yield process


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What came of one camera, and the machine's time when each frame did."""

    frames: list[Frame] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)  # by then


def watch(uri: str, count: int, fps: float, enough: Callable[[Watched], bool] = lambda seen: True) -> Watched:
    """So many frames, and more, for a minute at most, until it is enough."""
    camera, seen, began_s = source(uri, fps), Watched(), time.monotonic()
    for frame in connected(camera):
        seen.frames.append(frame)
        seen.came_s.append(time.time())
        seen.decoded.append(camera.decoded)
        if len(seen.frames) >= count and (enough(seen) or time.monotonic() > began_s + 60):
            break
    return seen


def offs_s(seen: Watched) -> list[float]:
    """How much later than drawn each is said to have been taken."""
    return [frame.captured_ms / 1000 - read_clock(frame.image, frame.captured_ms / 1000) for frame in seen.frames]


def told_the_time(seen: Watched) -> bool:
    """Whether the camera has told its clock, which it does seconds after it begins to send."""
    return max(map(abs, offs_s(seen)[-2:])) < 0.1


def key_frames_only(seen: Watched) -> bool:
    """Whether the last three frames cost hardly any other picture; all would be eight a second at least."""
    return seen.decoded[-1] - seen.decoded[-4] <= 5


@pytest.fixture(scope="module")
def watched(site: SiteProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Watched]]:
    """All kinds of cameras at once, for 8 s, or until they have told their time."""
    slow_codec = "x264enc bframes=3 key-int-max=25 speed-preset=veryfast ! h264parse ! mp4mux"
    path = make_video(tmp_path_factory.mktemp("film") / "film.mp4", slow_codec, seconds=4, fps=25)
    films = RtspSite(draw_clock)
    films.add_file("film", path)
    films.start()
    wanted: dict[str, Callable[[], Watched]] = {
        **{codec: partial(watch, site.uri(codec), 8, 1.0, told_the_time) for codec in ("h264", "h265", "mjpeg")},
        "fast": partial(watch, site.uri("h264"), 28, 4.0, told_the_time),
        "film": partial(watch, films.uri("film"), 8, 1.0, key_frames_only),
        # Half of its key frames are enough, so that they are even when the machine is too slow for some of its pictures.
        **{f"{codec} seldom": partial(watch, site.uri(codec), 4, 0.5, key_frames_only) for codec in ("h264", "h265")},
    }
    with ThreadPoolExecutor(len(wanted)) as pool:
        running = {name: pool.submit(one) for name, one in wanted.items()}
        yield {name: one.result() for name, one in running.items()}
    films.stop()


@pytest.mark.parametrize("name", ["h264", "h265", "mjpeg", "fast"])
def test_the_time_of_a_frame_is_when_it_was_drawn(watched: dict[str, Watched], name: str) -> None:
    seen = watched[name]
    off_s = offs_s(seen)
    late_s = [off + came - frame.captured_ms / 1000 for off, came, frame in zip(off_s, seen.came_s, seen.frames, strict=True)]
    # Until the camera has told its clock, a picture was taken when it came, however late that is.
    assert all(-0.1 < off < late + 0.1 for off, late in zip(off_s, late_s, strict=True)), (off_s, late_s)
    assert told_the_time(seen), off_s


@pytest.mark.parametrize("name", ["h264", "h265", "mjpeg"])
def test_pictures_are_rgb_and_read_only(watched: dict[str, Watched], name: str) -> None:
    for frame in watched[name].frames:
        assert frame.image.shape == (360, 640, 3) and frame.image.dtype == np.uint8 and not frame.image.flags.writeable
        assert np.allclose(frame.image[20:100, 20:620].mean(axis=(0, 1)), (255, 0, 0), atol=30)


@pytest.mark.parametrize(("name", "period_s"), [("h264", 1), ("h265", 1), ("mjpeg", 1), ("film", 1), ("fast", 0.25)])
def test_frames_come_at_the_rate_asked_for(watched: dict[str, Watched], name: str, period_s: float) -> None:
    frames = watched[name].frames
    steps_s = [(b.pts_ns - a.pts_ns) / 1e9 for a, b in pairwise(frames)]
    assert np.mean(steps_s) == pytest.approx(period_s, rel=0.15), steps_s
    # A step may be short or long once, where the grid moves onto the key frames; a film's last group of pictures is cut by its loop.
    assert max(steps_s) < 2.1 * period_s, steps_s
    assert all(a.captured_ms < b.captured_ms for a, b in pairwise(frames))


def test_only_key_frames_are_decoded_once_they_are_enough(watched: dict[str, Watched]) -> None:
    for name in ("h264 seldom", "h265 seldom"):
        assert key_frames_only(watched[name]), watched[name].decoded
    assert key_frames_only(watched["mjpeg"]), "each of its pictures is one"
    assert watched["fast"].decoded[-1] - watched["fast"].decoded[-13] > 14, "twelve would be the key frames alone"


def test_a_key_frame_of_a_stream_with_b_frames_is_not_held_back(watched: dict[str, Watched]) -> None:
    film = watched["film"]
    late_s = [came_s - frame.captured_ms / 1000 for frame, came_s in zip(film.frames, film.came_s, strict=True)]
    assert key_frames_only(film), film.decoded
    assert min(late_s[-3:]) < 0.5, late_s  # each would be by two seconds


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_camera_whose_clock_is_wrong_is_timed_by_ours(ahead_s: float) -> None:
    with OddCamera() as camera:  # it tells its clock at once, and every second
        camera.ahead_s, frames = ahead_s, list[Frame]()
        for frame in islice(source(camera.uri, fps=8).frames(), 32):
            assert abs(frame.captured_ms / 1000 - time.time()) < 60
            frames.append(frame)
    passed_ms, by_the_stream_ms = frames[-1].captured_ms - frames[16].captured_ms, (frames[-1].pts_ns - frames[16].pts_ns) / 1e6
    assert passed_ms == pytest.approx(by_the_stream_ms, rel=0.3), "nor does it stand still"


def test_a_silent_camera_is_lost() -> None:
    with SiteProcess() as ours:
        frames = source(ours.uri("h264"), silence_s=1.5).frames()
        next(frames)
        ours.fall_silent()
        began_s = time.monotonic()
        with pytest.raises(CameraLost, match=r"no picture for 1\.5 s"):
            list(frames)
        assert time.monotonic() - began_s < 8


def test_a_killed_camera_is_lost_at_once() -> None:
    with SiteProcess() as ours:
        frames = source(ours.uri("h264")).frames()
        next(frames)
        ours.kill()
        began_s = time.monotonic()
        with pytest.raises(CameraLost):
            list(frames)
        assert time.monotonic() - began_s < 8, "long before it would pass for silent"
        with pytest.raises(CameraLost, match="cannot connect"):
            list(source(ours.uri("h264")).frames())


def test_a_wrong_path_is_said(site: SiteProcess) -> None:
    with pytest.raises(CameraLost, match="404"):
        list(source(site.uri("nowhere")).frames())


def test_the_login_is_used_and_a_wrong_one_is_said_but_not_shown() -> None:
    with SiteProcess(login=("eve", "p@ss word")) as ours:
        assert next(source(ours.uri("h264", "eve:p%40ss%20word@")).frames()).image.any()
        with pytest.raises(CameraLost, match="password") as caught:
            list(source(ours.uri("h264", "eve:hunter2@")).frames())
        assert "hunter2" not in str(caught.value) and "eve" not in str(caught.value)


def test_close_ends_the_frames_soon(site: SiteProcess) -> None:
    camera = source(site.uri("h264"), fps=0.1)
    frames = connected(camera)
    next(frames)
    began_s = time.monotonic()
    threading.Timer(0.2, camera.close).start()
    assert list(frames) == []
    assert time.monotonic() - began_s < 8, "the next is due in 10"


def test_connections_leave_nothing_behind(site: SiteProcess) -> None:
    def connect(times: int) -> int:
        camera = source(site.uri("h264"))
        for _ in range(times):
            next(connected(camera))
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    few = connect(2)
    assert connect(6) <= few + 2
    assert not [thing for thing in gc.get_objects() if isinstance(thing, camera_module._Graph)]


def test_capture_times_grow_over_connections(site: SiteProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = source(site.uri("mjpeg"))
    first = next(connected(camera))
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # the machine's clock was set back
    assert next(connected(camera)).captured_ms == first.captured_ms + 1


@pytest.mark.parametrize("uri", ["gopher://cam/1", "javascript:1", "rtmp://u:secret@cam/1", "rtspu://cam/1"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(BadCamera) as caught:
        source(uri)
    assert "secret" not in str(caught.value)
