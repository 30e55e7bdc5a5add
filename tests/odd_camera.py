"""A camera on loopback that speaks RTSP by itself and can be told to misbehave while it is being watched."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401  (GstApp: gives appsink its methods)

Gst.init(None)

FPS = 8
_CLOCK = 90_000  # RTP's, a second
_NTP = 2_208_988_800
_LIVE = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,{size},framerate={fps}/1"
_H264 = "x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max=8 ! rtph264pay config-interval=-1 pt=96"
_SENDS = {  # name in the description, and what makes the packets
    "h264": ("H264", "width=320,height=180", _H264),
    "large": ("H264", "width=640,height=480", _H264),
    "h265": (
        "H265",
        "width=320,height=180",
        "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=8 log-level=none option-string=pools=1:frame-threads=1 "
        "! h265parse ! rtph265pay config-interval=-1 pt=96",
    ),
    "mjpeg": ("JPEG", "width=320,height=184", "jpegenc ! rtpjpegpay pt=96"),
    "vp8": ("VP8", "width=320,height=180", "vp8enc deadline=1 keyframe-max-dist=8 ! rtpvp8pay pt=96"),
}
_AT_THE_DOOR = ("refuses", "nonsense", "mute")


class OddCamera:
    """One camera. Its fields may be changed at any time; a connection that is open notices at the next packet.

    sends: what it films, one of `_SENDS`; whoever connects is told the codec, and who is connected is not.
    does: "well"; "stalls" (keeps the connection and sends nothing more); "garbage" (random bytes in its packets); or, to whoever
    connects, and who is connected is thrown out: "refuses" (401), "nonsense" (no RTSP at all), "mute" (accepts, and says nothing).
    ahead_s: how far its clock is ahead of ours. tells_time: whether it reports its clock at all.
    """

    def __init__(self, sends: str = "h264", *, tells_time: bool = True) -> None:
        self.sends, self.does, self.ahead_s, self._tells_time = sends, "well", 0.0, tells_time
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._attend, args=(client,), daemon=True).start()

    def _attend(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.does == "mute":
                self._while("mute")
            if self.does == "nonsense":
                client.sendall(random.Random(1).randbytes(20_000))
                self._while("nonsense", 1)
                return
            codec = _SENDS[self.sends][0]
            with client.makefile("rb") as asked:
                while (request := _request(asked))[0] != "PLAY":
                    client.sendall(self._reply(*request, codec))
                client.sendall(self._reply(*request, codec))
                threading.Thread(target=_drain, args=(asked,), daemon=True).start()  # receiver's reports, keep-alives
                self._play(client)

    def _reply(self, method: str, number: str, codec: str) -> bytes:
        if self.does == "refuses":
            return f'RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\nWWW-Authenticate: Basic realm="camera"\r\n\r\n'.encode()
        lines, body = {
            "OPTIONS": (["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"], ""),
            "DESCRIBE": (["Content-Type: application/sdp"], _description(codec)),
            "SETUP": (["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"], ""),
            "PLAY": ([f"RTP-Info: url={self.uri}video;seq=1"], ""),
        }.get(method, ([], ""))
        head = ["RTSP/1.0 200 OK", f"CSeq: {number}", "Session: 1;timeout=60", *lines, f"Content-Length: {len(body)}"]
        return ("\r\n".join(head) + "\r\n\r\n" + body).encode()

    def _play(self, client: socket.socket) -> None:
        """Send what it films, numbered and timed as one stream whatever changes."""
        noise, reported_s, number = random.Random(2), 0.0, 0
        while not self._closed.is_set() and self.does not in _AT_THE_DOOR:
            for at_s, packet in self._filmed(self.sends):
                if self.does in _AT_THE_DOOR:
                    break
                number = (number + 1) % 65_536
                told_s = at_s + self.ahead_s
                stamp = round(told_s * _CLOCK) % 2**32
                payload = noise.randbytes(len(packet) - 12) if self.does == "garbage" else packet[12:]
                packet = packet[:2] + struct.pack(">HII", number, stamp, 7) + payload
                client.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                if self._tells_time and at_s - reported_s > 1:
                    reported_s = at_s
                    ntp = struct.pack(">II", int(told_s) + _NTP, int(told_s % 1 * 2**32))
                    report = struct.pack(">BBHI", 0x80, 200, 6, 7) + ntp + struct.pack(">III", stamp, number, 0)
                    client.sendall(struct.pack(">cBH", b"$", 1, len(report)) + report)
                self._while("stalls")

    def _filmed(self, sends: str) -> Iterator[tuple[float, bytes]]:
        """RTP packets with the time of their picture, for as long as this is what it sends."""
        _, size, encode = _SENDS[sends]
        launch = f"{_LIVE.format(size=size, fps=FPS)} ! {encode} mtu=1400 ! appsink name=out"
        pipeline: Any = Gst.parse_launch(launch)
        pipeline.set_state(Gst.State.PLAYING)
        try:
            out, zero_s = pipeline.get_by_name("out"), 0.0
            while self.sends == sends and not self._closed.is_set():
                if sample := out.try_pull_sample(Gst.SECOND // 5):
                    buffer = sample.get_buffer()
                    zero_s = zero_s or time.time() - pipeline.get_current_running_time() / 1e9
                    # Encoders begin at a thousand hours; the segment says so.
                    at_ns = sample.get_segment().to_running_time(Gst.Format.TIME, buffer.pts)
                    yield zero_s + at_ns / 1e9, buffer.extract_dup(0, buffer.get_size())
        finally:
            pipeline.set_state(Gst.State.NULL)

    def _while(self, does: str, at_most_s: float = 60) -> None:
        until_s = time.monotonic() + at_most_s
        while self.does == does and time.monotonic() < until_s and not self._closed.wait(0.02):
            pass


def _request(asked: Any) -> tuple[str, str]:
    """Method and sequence number."""
    lines: list[str] = []
    while not lines or lines[-1]:
        if not (line := asked.readline()):
            raise ConnectionError
        lines.append(line.decode().strip())
    number = next(line.split()[1] for line in lines if line.startswith("CSeq:"))
    return lines[0].split()[0], number


def _drain(asked: Any) -> None:
    with suppress(OSError, ValueError):
        while asked.read(1):
            pass


def _description(codec: str) -> str:
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=odd", "c=IN IP4 0.0.0.0", "t=0 0", "a=control:*"]
    media = ["m=video 0 RTP/AVP 96", f"a=rtpmap:96 {codec}/{_CLOCK}", "a=control:video"]
    return "".join(f"{line}\r\n" for line in lines + media)
