"""A site's cameras over real RTSP on loopback: drawn pictures, encoded once a camera, all paced by one wall clock."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import gi
import numpy as np
from numpy.typing import NDArray

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer  # noqa: E402, F401  (GstApp: gives appsrc its methods)

Draw = Callable[[str, float], NDArray[np.uint8]]

WIDTH, HEIGHT = 640, 360
_ROLE = "viewer"
_SOURCE = "appsrc name=feed is-live=true format=time max-buffers=8 leaky-type=downstream"
# One thread an encoder: a site has more cameras than cores.
_ENCODE = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max={gop} bitrate={kbps} ! rtph264pay config-interval=-1",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} bitrate={kbps} log-level=none "
    "option-string=pools=1:frame-threads=1 ! h265parse ! rtph265pay config-interval=-1",
    "mjpeg": "jpegenc quality=85 ! rtpjpegpay",
}
_REPAY = {"video/x-h264": ("h264parse", "rtph264pay"), "video/x-h265": ("h265parse", "rtph265pay")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """One thing to send: when, as seconds since the feed began or the epoch, and the bytes."""

    at_s: float
    dts_s: float
    data: bytes


class _Feed:
    """Pushes the units of one mount into its appsrc at their times, for as long as somebody watches."""

    def __init__(self, units: Callable[[threading.Event], Iterator[_Unit]], caps: Any) -> None:
        self._units, self._caps = units, caps
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, appsrc: Any) -> None:
        """Feed this appsrc from now on, and no other."""
        self.stop()
        appsrc.set_property("caps", self._caps)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(appsrc, self._stop), name="rtsp-feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End feeding, if anything is fed."""
        self._stop.set()

    def _run(self, appsrc: Any, stop: threading.Event) -> None:
        while appsrc.get_current_running_time() == Gst.CLOCK_TIME_NONE and not stop.wait(0.01):
            pass  # a picture drawn before the pipeline's clock runs would get a wrong time
        for unit in self._units(stop):
            # FLUSHING while the server prepares: what is lost now may be the picture that all others build on.
            while _push(appsrc, unit) == Gst.FlowReturn.FLUSHING and not stop.wait(0.02):
                pass


def _push(appsrc: Any, unit: _Unit) -> Any:
    zero_ns = appsrc.get_current_running_time() - time.time_ns()
    buffer = Gst.Buffer.new_wrapped(unit.data)
    buffer.pts = max(0, zero_ns + round(unit.at_s * 1e9))
    buffer.dts = max(0, zero_ns + round(unit.dts_s * 1e9))
    return appsrc.push_buffer(buffer)


class RtspSite:
    """An RTSP server with one mount a camera. Mounts may be added before or after `start`; drawing starts with the first client."""

    def __init__(
        self, draw: Draw, *, fps: float = 8, epoch_s: float = 0.0, login: tuple[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        Gst.init(None)
        self._draw, self._fps, self._epoch_s, self._login = draw, fps, epoch_s, login
        self._server = GstRtspServer.RTSPServer()
        self._server.set_address(host)
        self._server.get_thread_pool().set_max_threads(4)  # with one, clients that wait for a first picture block all others
        if login:
            self._server.set_auth(_auth(*login))
        self._feeds: list[_Feed] = []
        self._context = GLib.MainContext()
        self._loop = GLib.MainLoop.new(self._context, False)
        self._thread: threading.Thread | None = None

    def add_camera(self, camera_id: str, *, codec: str = "h264", kbps: int = 800) -> None:
        """Serve the drawn pictures of a camera at /<camera_id>."""
        above, below = Fraction(self._fps).limit_denominator(1001).as_integer_ratio()
        caps = Gst.Caps.from_string(f"video/x-raw,format=RGB,width={WIDTH},height={HEIGHT},framerate={above}/{below}")
        encode = _ENCODE[codec].format(gop=max(1, round(self._fps)), kbps=kbps)
        launch = f"( {_SOURCE} ! videoconvert ! video/x-raw,format=I420 ! {encode} name=pay0 pt={26 if codec == 'mjpeg' else 96} )"
        self._mount(camera_id, launch, _Feed(lambda stop: self._drawn(camera_id, stop), caps))

    def add_file(self, mount: str, path: Path) -> None:
        """Serve a video file (H.264 or H.265) at /<mount> for ever, from its start again whenever it ends, without re-encoding."""
        caps, units, length_s = _read_units(path)
        parse, pay = _REPAY[caps.get_structure(0).get_name()]
        launch = f"( {_SOURCE} ! {parse} ! {pay} config-interval=-1 name=pay0 pt=96 )"
        self._mount(mount, launch, _Feed(lambda stop: _looped(units, length_s, stop), caps))

    def start(self, port: int = 0) -> int:
        """Listen on loopback; 0 lets the system choose. Returns the port."""
        self._server.set_service(str(port))
        if not self._server.attach(self._context):
            raise OSError(f"cannot listen on {self._server.get_address()}:{port}")
        self._thread = threading.Thread(target=self._loop.run, name="rtsp-site", daemon=True)
        self._thread.start()
        return int(self._server.get_bound_port())

    def stop(self) -> None:
        """Disconnect everybody and stop listening; the site cannot be started again."""
        for feed in self._feeds:
            feed.stop()
        self._server.client_filter(lambda _server, _client: GstRtspServer.RTSPFilterResult.REMOVE)
        self._loop.quit()
        if self._thread:
            self._thread.join(5)

    def uri(self, camera_id: str) -> str:
        """Where a client finds a camera, login included."""
        login = f"{self._login[0]}:{self._login[1]}@" if self._login else ""
        return f"rtsp://{login}127.0.0.1:{self._server.get_bound_port()}/{camera_id}"

    def _mount(self, name: str, launch: str, feed: _Feed) -> None:
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(launch)
        factory.set_shared(True)
        if self._login:
            factory.set_permissions(_permissions())
        factory.connect("media-configure", lambda _factory, media: _attach(media, feed))
        self._feeds.append(feed)
        self._server.get_mount_points().add_factory(f"/{name}", factory)

    def _drawn(self, camera_id: str, stop: threading.Event) -> Iterator[_Unit]:
        """Pictures on the grid of the site's clock; those that drawing is too slow for are left out, never late."""
        tick = int((time.time() - self._epoch_s) * self._fps)
        while True:
            tick = max(tick + 1, int((time.time() - self._epoch_s) * self._fps))
            at_s = tick / self._fps
            if stop.wait(max(0.0, self._epoch_s + at_s - time.time())):
                return
            picture = np.ascontiguousarray(self._draw(camera_id, at_s))
            yield _Unit(at_s=self._epoch_s + at_s, dts_s=self._epoch_s + at_s, data=picture.tobytes())


def _attach(media: Any, feed: _Feed) -> None:
    media.set_reusable(False)
    feed.start(media.get_element().get_by_name_recurse_up("feed"))
    media.connect("unprepared", lambda _media: feed.stop())


def _looped(units: list[_Unit], length_s: float, stop: threading.Event) -> Iterator[_Unit]:
    began_s = time.time()
    for turn in count():
        for unit in units:
            shift_s = began_s + turn * length_s
            if stop.wait(max(0.0, shift_s + unit.dts_s - time.time())):
                return
            yield _Unit(at_s=shift_s + unit.at_s, dts_s=shift_s + unit.dts_s, data=unit.data)


def _read_units(path: Path) -> tuple[Any, list[_Unit], float]:
    """The coded pictures of a file, as (caps, units, length in seconds); all in memory, for footage is small."""
    for codec, (parse, _) in _REPAY.items():
        samples = _samples(path, f"{parse} config-interval=-1 ! {codec},stream-format=byte-stream,alignment=au")
        if samples:
            units = [_unit(sample.get_buffer()) for sample in samples]
            return samples[0].get_caps(), units, len(units) * (units[-1].dts_s - units[0].dts_s) / max(1, len(units) - 1)
    raise ValueError(f"{path}: no H.264 or H.265 video in it")


def _samples(path: Path, parse: str) -> list[Any]:
    pipeline = Gst.parse_launch(f"filesrc name=file ! parsebin ! {parse} ! appsink name=out sync=false")
    pipeline.get_by_name("file").set_property("location", str(path))
    out, bus = pipeline.get_by_name("out"), pipeline.get_bus()
    pipeline.set_state(Gst.State.PLAYING)
    samples = []
    while bus.pop_filtered(Gst.MessageType.ERROR) is None and not out.is_eos():
        sample = out.try_pull_sample(100 * Gst.MSECOND)
        samples += [sample] if sample else []
    pipeline.set_state(Gst.State.NULL)
    return samples


def _unit(buffer: Any) -> _Unit:
    pts, dts = buffer.pts, buffer.dts if buffer.dts != Gst.CLOCK_TIME_NONE else buffer.pts
    return _Unit(at_s=pts / 1e9, dts_s=dts / 1e9, data=buffer.extract_dup(0, buffer.get_size()))


def _auth(user: str, password: str) -> Any:
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", _ROLE)
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    return auth


def _permissions() -> Any:
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role(_ROLE, permission, True)
    return permissions
