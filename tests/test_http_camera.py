"""Frames out of cameras that speak HTTP."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image
from rtsp_site import FPS, draw_clock, read_clock
from test_camera import make_video, source

from pipeline import camera as camera_module
from pipeline.errors import CameraLost

pytestmark = pytest.mark.gst
SECOND = 1_000_000_000


class _Handler(http.server.BaseHTTPRequestHandler):
    content_type = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", self.content_type)
        self.end_headers()
        try:
            for part in self.parts():
                self.wfile.write(part)
        except OSError:
            pass

    def parts(self) -> Iterator[bytes]:
        """What it sends, at its pace."""
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass


class _Jpegs(_Handler):
    content_type = "multipart/x-mixed-replace; boundary=frame"

    def parts(self) -> Iterator[bytes]:
        while not threading.Event().wait(1 / FPS):
            picture = BytesIO()
            Image.fromarray(draw_clock("http", time.time())).save(picture, "JPEG")
            yield b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture.getvalue())
            yield picture.getvalue() + b"\r\n"


@contextmanager
def served(handler: type[_Handler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/live"
        server.shutdown()


def test_motion_jpeg() -> None:
    off_s, late_s = [], []
    with served(_Jpegs) as uri:
        for frame in islice(source(uri, fps=5).frames(), 8):
            came_s = time.time()
            drawn_s = read_clock(frame.image, came_s)
            off_s.append(frame.captured_ms / 1000 - drawn_s)
            late_s.append(came_s - drawn_s)
    assert all(-0.1 < off <= late for off, late in zip(off_s, late_s, strict=True)), (off_s, late_s)
    assert min(off_s) < 0.3, off_s


def test_a_pause_in_the_sending_does_not_put_what_follows_into_the_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamps of a film that is filmed as it is sent go on as if there had been none."""
    monkeypatch.setattr(camera_module, "_SANE_NS", SECOND)
    encode = "x264enc tune=zerolatency key-int-max=10 ! h264parse ! mp4mux fragment-duration=200 streamable=true"
    film = make_video(tmp_path / "film.mp4", encode, seconds=6).read_bytes()
    piece = len(film) // 60

    class Pausing(_Handler):
        content_type = "video/mp4"

        def parts(self) -> Iterator[bytes]:
            for number in range(0, len(film), piece):
                threading.Event().wait(3 if number == 20 * piece else 0.1)
                yield film[number : number + piece]

    late_s: list[tuple[float, float]] = []
    with served(Pausing) as uri, pytest.raises(CameraLost, match="ended the stream"):
        for frame in source(uri, fps=5).frames():
            late_s.append((frame.pts_ns / 1e9, time.time() - frame.captured_ms / 1000))
    after_s = [late for at, late in late_s if at > 3]
    assert len(after_s) > 5 and min(after_s) > -0.01 and sorted(after_s)[len(after_s) // 2] < 1.5, late_s
