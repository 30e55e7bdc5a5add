"""Frames out of a camera or a video file, by GStreamer, which only this module and `pipeline.elements` know."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import gi

from pipeline.codecs import HARDWARE, PARSE, SOFTWARE, UNPACK, unsupported
from pipeline.core import BadCamera, Camera, Frame
from pipeline.elements import image, make, reason, scaled
from pipeline.errors import CameraLost
from pipeline.sampling import KeyGate, Sampler

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401  (GstApp: gives appsink its methods)

Gst.init(None)

log = logging.getLogger(__name__)

_SECOND = 1_000_000_000
_NTP_TO_UNIX_NS = 2_208_988_800 * _SECOND
_SANE_NS = 5 * _SECOND  # how far a camera's clock may be from ours and still be believed
_NTP = Gst.Caps.from_string("timestamp/x-ntp")
_POLL_NS = _SECOND // 5  # how late a stop or an error may be noticed
_TCP = 4  # GstRTSPLowerTrans
_SCHEMES = ("rtsp", "rtsps", "http", "https", "file", "")


class GstSource:
    """One camera. Each `frames()` is one connection; capture times grow strictly over all of them.

    A file plays at its own pace, or, not `in_time`, as fast as its frames are taken.
    """

    def __init__(self, camera: Camera, *, silence_s: float = 10.0, max_width: int = 640, in_time: bool = True) -> None:
        self._camera, self._silence_s, self._max_width, self._in_time = camera, silence_s, max_width, in_time
        self._address = urlsplit(camera.uri)
        if self._address.scheme not in _SCHEMES:
            raise BadCamera(f"camera {camera.id}: {self._address.scheme}:// is not supported; use rtsp, rtsps, http, https or a file")
        self._closed = threading.Event()
        self._useless: set[str] = set()  # hardware decoders that gave no picture of this camera
        self._last_ms = 0
        self.decoded = 0  # pictures decoded on this connection: what sampling costs

    def close(self) -> None:
        """Make `frames()` return soon, from any thread."""
        self._closed.set()

    def frames(self) -> Iterator[Frame]:
        """Frames as they come, at the camera's rate; ends with a file, or with `close`, and raises CameraLost otherwise."""
        graph = _Graph(self._camera, self._address, self._silence_s, self._max_width, self._in_time, self._useless)
        try:
            graph.play()
            while not self._closed.is_set():
                sample = graph.pull()
                self.decoded = graph.pictures
                if sample is not None:
                    yield self._frame(sample, graph)
                elif graph.ended():
                    return
        except CameraLost:
            if graph.hardware and graph.fed and not graph.pictures:
                self._useless.add(graph.hardware)
                log.warning("camera %s: no picture from %s: the CPU decodes from now on", self._camera.id, graph.hardware)
            raise
        finally:
            graph.stop()

    def _frame(self, sample: Any, graph: "_Graph") -> Frame:
        buffer = sample.get_buffer()
        self._last_ms = max(graph.captured_ms(sample), self._last_ms + 1)
        return Frame(camera_id=self._camera.id, pts_ns=buffer.pts, captured_ms=self._last_ms, image=image(sample))


class _Graph:
    """The GStreamer pipeline of one connection: source ! parsebin ! (gate) ! decoder ! (sampler) ! convert and scale ! appsink."""

    def __init__(
        self, camera: Camera, address: SplitResult, silence_s: float, max_width: int, in_time: bool, useless: Collection[str]
    ) -> None:
        self._is_file, self._is_http = address.scheme in ("file", ""), address.scheme.startswith("http")
        self._silence_s, self._max_width = silence_s, max_width
        self._ahead_s = 3 / camera.fps if self._is_file else 0.0  # how long a file may wait for its next picture to be due
        self._fps, self._gate, self._sampler = camera.fps, KeyGate(camera.fps, silence_s / 2), Sampler(camera.fps)
        self._fault: str | None = None  # what a streaming thread found wrong
        self._useless = useless
        self.hardware: str | None = None  # the decoder, where it is one of a device
        self.fed = False  # whether the decoder was given anything
        self.pictures = 0  # decoded
        self._alive_s = time.monotonic()  # when the last of them was, or the connection began
        self._held = False  # whether the decoder may be keeping a picture back
        self._trust_ntp = True
        self._undo: list[Callable[[], Any]] = []
        self._pipeline = Gst.Pipeline()
        self._parse = self._add("parsebin")
        self._on(self._parse, "pad-added", self._on_parsed)
        self._on(self._parse, "no-more-pads", self._on_all_parsed)
        self._scale = self._add("videoconvertscale")
        self._size = self._add("capsfilter")
        self._sink = self._add("appsink", max_buffers=2, drop=in_time, sync=self._is_file and in_time)
        Gst.Element.link_many(self._scale, self._size, self._sink)
        self._add_source(address)

    def play(self) -> None:
        """Begin to connect."""
        self._pipeline.set_state(Gst.State.PLAYING)

    def stop(self) -> None:
        """Disconnect, end every streaming thread, and cut the callbacks, whose cycles no garbage collector sees."""
        self._pipeline.set_state(Gst.State.NULL)
        for undo in self._undo:
            undo()
        self._undo.clear()

    def pull(self) -> Any:
        """The next sampled picture, or None when there is none yet."""
        return self._sink.try_pull_sample(_POLL_NS)

    def ended(self) -> bool:
        """Whether a file has come to its end; raises CameraLost when there is nothing more to hope for."""
        message = self._pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR | Gst.MessageType.EOS)
        if self._fault:
            raise CameraLost(self._fault)
        if message is not None and message.type == Gst.MessageType.ERROR:
            raise CameraLost(reason(*message.parse_error()))
        if message is not None and not self.pictures:
            raise CameraLost("nothing in it could be decoded: the file is damaged, or holds no pictures")
        if message is not None and not self._is_file:
            raise CameraLost("the camera ended the stream")
        if time.monotonic() - self._alive_s > self._silence_s + self._ahead_s:
            raise CameraLost(f"no picture for {self._silence_s:g} s: it is silent, or what it sends cannot be decoded")
        return message is not None

    def captured_ms(self, sample: Any) -> int:
        """When a picture was taken: by the camera's clock if that is sane, else by when it came; never later than now."""
        now_ns, clock_ns = self._now_ns()
        meta = sample.get_buffer().get_reference_timestamp_meta(_NTP)
        if meta and self._trust_ntp:
            taken_ns: int = meta.timestamp - _NTP_TO_UNIX_NS
            # Once seen wrong it is not believed again on this connection: jumping between two clocks is worse than either.
            self._trust_ntp = abs(taken_ns - now_ns) < _SANE_NS
            if self._trust_ntp:
                return min(taken_ns, now_ns) // 1_000_000
        # What comes in one burst after a pause is spread out again by its own stamps, and so into the future. The stamps of a film that
        # is sent over HTTP know of no pause: each would leave all that follows further in the past.
        running_ns = sample.get_segment().to_running_time(Gst.Format.TIME, sample.get_buffer().pts)
        came_ns = min(int(now_ns - clock_ns + self._pipeline.get_base_time() + running_ns), now_ns)
        return (now_ns if self._is_http and now_ns - came_ns > _SANE_NS else came_ns) // 1_000_000

    def _now_ns(self) -> tuple[int, int]:
        """UNIX time and the pipeline's, read as near together as a busy machine lets us: each may be delayed by other threads."""
        clock, read = self._pipeline.get_clock(), []
        for _ in range(3):
            before_ns, clock_ns, after_ns = time.time_ns(), clock.get_time(), time.time_ns()
            read.append((after_ns - before_ns, after_ns, clock_ns))
        return min(read)[1:]

    def _add(self, factory: str, **properties: Any) -> Any:
        element = make(factory, **properties)
        self._pipeline.add(element)
        return element

    def _add_decoder(self, codec: str) -> Any:
        """The best that is here and can be used, or None."""
        for name in (*HARDWARE.get(codec, ()), *SOFTWARE.get(codec, ())):
            if name in self._useless or not Gst.ElementFactory.find(name):
                continue
            # More threads add latency, and cameras outnumber cores; a damaged picture is worse than none.
            decoder = make(name, **({"max_threads": 1, "output_corrupt": False} if name.startswith("avdec") else {}))
            if decoder.set_state(Gst.State.READY) != Gst.StateChangeReturn.FAILURE:  # a device may be there and not to be had
                self.hardware = name if name in HARDWARE.get(codec, ()) else None
                self._pipeline.add(decoder)
                return decoder
            decoder.set_state(Gst.State.NULL)
        return None

    def _on(self, element: Any, signal: str, call: Callable[..., Any]) -> None:
        self._undo.append(partial(element.disconnect, element.connect(signal, call)))

    def _probe(self, pad: Any, kind: Any, call: Callable[..., Any]) -> None:
        self._undo.append(partial(pad.remove_probe, pad.add_probe(kind, call)))

    def _add_source(self, address: SplitResult) -> None:
        if self._is_file:
            self._add("filesrc", location=unquote(address.path) if address.scheme else address.path).link(self._parse)
            return
        # The login goes in by itself, so that no message of GStreamer can hold it.
        bare = urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))
        login = {"user_id": unquote(address.username or ""), "user_pw": unquote(address.password or "")} if address.username else {}
        if self._is_http:
            self._add("souphttpsrc", location=bare, is_live=True, do_timestamp=True, **login).link(self._parse)
            return
        # A decoder that cannot keep up loses pictures after 2 s, not all memory.
        source = self._add(
            "rtspsrc",
            location=bare,
            protocols=_TCP,
            latency=2000,
            drop_on_latency=True,
            tcp_timeout=round(self._silence_s * 1e6),
            add_reference_timestamp_meta=True,
            **login,
        )
        self._on(source, "select-stream", lambda _source, _number, caps: caps.get_structure(0).get_string("media") == "video")
        self._on(source, "pad-added", self._on_stream)

    def _on_stream(self, _source: Any, pad: Any) -> None:
        """Unpack the first video; left to parsebin, this would hold each picture back until the next one comes."""
        if self._parse.get_static_pad("sink").is_linked():
            return
        encoding = pad.get_current_caps().get_structure(0).get_string("encoding-name")
        if encoding not in UNPACK:
            self._fault = unsupported(encoding)
            return
        unpack = self._add(UNPACK[encoding])
        unpack.link(self._parse)
        unpack.sync_state_with_parent()
        pad.link(unpack.get_static_pad("sink"))

    def _on_parsed(self, _parse: Any, pad: Any) -> None:
        """Put the decoder behind the first video; sound stays unlinked."""
        codec = (pad.get_current_caps() or pad.query_caps()).get_structure(0).get_name()
        if self._scale.get_static_pad("sink").is_linked() or not codec.startswith(("video/", "image/")):
            return
        decoder = self._add_decoder(codec)
        if decoder is None:
            self._fault = unsupported(codec)
            return
        decoder.link(self._scale)
        self._probe(decoder.get_static_pad("src"), Gst.PadProbeType.BUFFER | Gst.PadProbeType.EVENT_DOWNSTREAM, self._on_decoded)
        self._probe(pad, Gst.PadProbeType.BUFFER, self._on_coded)
        decoder.sync_state_with_parent()
        pad.link(self._entry(pad, decoder, codec).get_static_pad("sink"))

    def _entry(self, pad: Any, decoder: Any, codec: str) -> Any:
        """The decoder, or what has to repack the stream before it: some take fewer forms of H.264 than others."""
        if codec not in PARSE or pad.query_caps().can_intersect(decoder.get_static_pad("sink").query_caps()):
            return decoder
        repack = self._add(PARSE[codec])
        repack.link(decoder)
        repack.sync_state_with_parent()
        return repack

    def _on_all_parsed(self, _parse: Any) -> None:
        if not self._scale.get_static_pad("sink").is_linked():
            self._fault = self._fault or "there is no video in it"

    def _on_coded(self, pad: Any, info: Any) -> Any:
        buffer = info.get_buffer()
        at_ns = buffer.pts if buffer.pts != Gst.CLOCK_TIME_NONE else buffer.dts
        is_key = not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
        were_keys_only = self._gate.keys_only
        passes = self._gate.passes(at_ns, is_key)
        if self._gate.keys_only and not were_keys_only:
            self._sampler = Sampler(self._fps)  # its grid starts anew on a key frame, or the first of them would fall between
        if passes and not (self._gate.keys_only and not self._sampler.due(at_ns)):
            self._held, self.fed = self._gate.keys_only, True
            return Gst.PadProbeReturn.OK
        if self._held:
            # A decoder of a stream with B-frames would keep the picture back until two more came: seconds late. This makes it give it out.
            self._held = False
            pad.get_peer().send_event(Gst.Event.new_segment_done(Gst.Format.TIME, -1))
        return Gst.PadProbeReturn.DROP

    def _on_decoded(self, _pad: Any, info: Any) -> Any:
        if info.type & Gst.PadProbeType.EVENT_DOWNSTREAM:
            event = info.get_event()
            if event.type == Gst.EventType.CAPS:
                self._size.set_property("caps", scaled(event.parse_caps().get_structure(0), self._max_width))
            return Gst.PadProbeReturn.DROP if event.type == Gst.EventType.SEGMENT_DONE else Gst.PadProbeReturn.OK
        self.pictures += 1
        self._alive_s = time.monotonic()
        return Gst.PadProbeReturn.OK if self._sampler.take(info.get_buffer().pts) else Gst.PadProbeReturn.DROP
