"""Frames out of real RTSP servers and real files."""

import gc
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from rtsp_site import FPS, SiteProcess, draw_clock, read_clock

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


def make_video(path: Path, encode: str, *, seconds: float = 1, fps: int = 10, size: str = "width=320,height=180") -> Path:
    count = round(seconds * fps)
    launch = f"videotestsrc num-buffers={count} pattern=ball ! video/x-raw,format=I420,{size},framerate={fps}/1 ! {encode}"
    pipeline = Gst.parse_launch(f'{launch} ! filesink location="{path}"')
    pipeline.set_state(Gst.State.PLAYING)
    message = pipeline.get_bus().timed_pop_filtered(30 * SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
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

    frames: list[Frame]
    came_s: list[float]
    decoded: int


def watch(uri: str, count: int, fps: float) -> Watched:
    camera = source(uri, fps)
    frames, came_s = [], []
    for frame in islice(camera.frames(), count):
        frames.append(frame)
        came_s.append(time.time())
    return Watched(frames=frames, came_s=came_s, decoded=camera.decoded)


@pytest.fixture(scope="module")
def watched(site: SiteProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Watched]]:
    """All kinds of cameras at once, for 8 s."""
    slow_codec = "x264enc bframes=3 key-int-max=25 speed-preset=veryfast ! h264parse ! mp4mux"
    path = make_video(tmp_path_factory.mktemp("film") / "film.mp4", slow_codec, seconds=4, fps=25)
    films = RtspSite(draw_clock)
    films.add_file("film", path)
    films.start()
    wanted = {codec: (site.uri(codec), 8, 1.0) for codec in ("h264", "h265", "mjpeg")}
    wanted |= {"fast": (site.uri("h264"), 28, 4.0), "film": (films.uri("film"), 8, 1.0)}
    with ThreadPoolExecutor(len(wanted)) as pool:
        running = {name: pool.submit(watch, *one) for name, one in wanted.items()}
        yield {name: one.result() for name, one in running.items()}
    films.stop()


@pytest.mark.parametrize("name", ["h264", "h265", "mjpeg", "fast"])
def test_the_time_of_a_frame_is_when_it_was_drawn(watched: dict[str, Watched], name: str) -> None:
    seen = watched[name]
    drawn_s = [read_clock(frame.image, frame.captured_ms / 1000) for frame in seen.frames]
    off_s = [frame.captured_ms / 1000 - drawn for frame, drawn in zip(seen.frames, drawn_s, strict=True)]
    late_s = [came - drawn for came, drawn in zip(seen.came_s, drawn_s, strict=True)]
    # The camera tells its clock seconds after it begins to send; until then a picture was taken when it came, however late that is.
    assert all(-0.1 < off < late + 0.1 for off, late in zip(off_s, late_s, strict=True)), (off_s, late_s)
    assert max(map(abs, off_s[-2:])) < 0.1, off_s


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
    for name in ("h264", "h265"):  # three intervals to measure, then one a second
        assert watched[name].decoded <= 3 * FPS + 8, name
    assert watched["mjpeg"].decoded <= 12
    assert watched["fast"].decoded >= 6 * FPS


def test_a_key_frame_of_a_stream_with_b_frames_is_not_held_back(watched: dict[str, Watched]) -> None:
    film = watched["film"]
    late_s = [came_s - frame.captured_ms / 1000 for frame, came_s in zip(film.frames, film.came_s, strict=True)]
    assert film.decoded < 4 * 25, "key frames only"
    assert max(late_s[5:]) < 0.5, late_s


def test_a_camera_whose_clock_is_wrong_is_timed_by_ours(site: SiteProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "_NTP_TO_UNIX_NS", camera_module._NTP_TO_UNIX_NS + 3600 * SECOND)
    for frame in islice(source(site.uri("mjpeg"), fps=8).frames(), 40):
        assert abs(frame.captured_ms / 1000 - time.time()) < 1


def test_a_silent_camera_is_lost() -> None:
    with SiteProcess() as ours:
        frames = source(ours.uri("h264"), silence_s=1.5).frames()
        next(frames)
        ours.fall_silent()
        began_s = time.monotonic()
        with pytest.raises(CameraLost, match=r"no picture for 1\.5 s"):
            list(frames)
        assert time.monotonic() - began_s < 4


def test_a_killed_camera_is_lost_at_once() -> None:
    with SiteProcess() as ours:
        frames = source(ours.uri("h264")).frames()
        next(frames)
        ours.kill()
        began_s = time.monotonic()
        with pytest.raises(CameraLost):
            list(frames)
        assert time.monotonic() - began_s < 2
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
    began_ms = time.time() * 1000
    frames = list(source(str(path) if name != "a.mkv" else path.as_uri(), fps=5).frames())
    assert 4 <= len(frames) <= 6
    assert all(frame.image.shape == (180, 320, 3) and frame.image.any() for frame in frames)
    steps_ms = [b.captured_ms - a.captured_ms for a, b in pairwise(frames)]
    assert max(steps_ms) <= 260 and np.median(steps_ms) == pytest.approx(200, abs=30), "one may be short: the grid moves once"
    assert 600 < time.time() * 1000 - began_ms < 2500
    assert abs(frames[0].captured_ms - began_ms) < 800


def test_a_large_picture_is_scaled_and_keeps_its_shape(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", "x264enc speed-preset=ultrafast ! mp4mux", seconds=0.2, size="width=1280,height=962")
    assert next(source(str(path)).frames()).image.shape == (480, 640, 3)


@pytest.mark.footage
def test_real_footage_plays_at_one_frame_a_second(footage: Path) -> None:
    frames = list(islice(source(str(footage / "car-detection.mp4")).frames(), 4))
    assert [b.captured_ms - a.captured_ms for a, b in pairwise(frames)] == pytest.approx([1000] * 3, abs=150)


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
        list(source(str(tmp_path / name), fps=30, silence_s=2).frames())


def test_motion_jpeg_over_http() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Jpegs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        frames = list(islice(source(f"http://127.0.0.1:{server.server_port}/live", fps=5).frames(), 3))
        server.shutdown()
    assert all(abs(frame.captured_ms / 1000 - read_clock(frame.image, time.time())) < 0.3 for frame in frames)


class _Jpegs(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        from io import BytesIO

        from PIL import Image

        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        pause = threading.Event()
        try:
            while not pause.wait(1 / FPS):
                picture = BytesIO()
                Image.fromarray(draw_clock("http", time.time())).save(picture, "JPEG")
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture.getvalue()))
                self.wfile.write(picture.getvalue() + b"\r\n")
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


def test_close_ends_the_frames_soon(site: SiteProcess) -> None:
    camera = source(site.uri("h264"), fps=0.1)
    frames = camera.frames()
    next(frames)
    began_s = time.monotonic()
    threading.Timer(0.2, camera.close).start()
    assert list(frames) == []
    assert time.monotonic() - began_s < 0.8


def test_connections_leave_nothing_behind(site: SiteProcess) -> None:
    def connect(times: int) -> int:
        camera = source(site.uri("h264"))
        for _ in range(times):
            next(camera.frames())
        return len(list(Path("/proc/self/fd").iterdir()))

    assert connect(6) <= connect(2) + 2
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, camera_module._Graph)]


def test_capture_times_grow_over_connections(site: SiteProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = source(site.uri("mjpeg"))
    first = next(camera.frames())
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # the machine's clock was set back
    assert next(camera.frames()).captured_ms == first.captured_ms + 1


@pytest.mark.parametrize("uri", ["gopher://cam/1", "javascript:1", "rtmp://u:secret@cam/1", "rtspu://cam/1"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(BadCamera) as caught:
        source(uri)
    assert "secret" not in str(caught.value)
