"""Cameras that cost little: clips of a simulated site, filmed and encoded once, served over RTSP again and again by a process of its own.

    python -m bench.system.site 64

Prints one line of JSON when it is ready, the address of each camera, and ends with its standard input. Every camera has a mount and a
clock of its own, so key frames do not come in step. A clip shows 24 seconds at 8 pictures a second, 640 x 360, a key frame each second.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from simulator.render import render
from simulator.visits import CAMERAS, HEIGHT, WIDTH
from simulator.world import Site

SEED, START_S = 900_001, 7_700.0  # the site that simulator.serve shows, and when
CLIPS = Path(".cache/bench")
FPS = 8
CLIP_S = 24


def clip(camera: str) -> Path:
    """A camera of the site on film; filmed now where that was not done yet."""
    path = CLIPS / f"{camera}-{CLIP_S}s.mp4"
    if path.exists():
        return path
    import gi  # here: who only wants cameras needs no GStreamer

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import Gst, GstApp  # noqa: F401  (GstApp: gives appsrc its methods)

    Gst.init(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    pipeline = Gst.parse_launch(
        f"appsrc name=src format=time caps=video/x-raw,format=RGB,width={WIDTH},height={HEIGHT},framerate={FPS}/1 ! videoconvert"
        f" ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max={FPS} bitrate=800"
        " ! h264parse ! mp4mux ! filesink name=out"
    )
    pipeline.get_by_name("out").set_property("location", str(unfinished))
    source, site = pipeline.get_by_name("src"), Site(SEED)
    pipeline.set_state(Gst.State.PLAYING)
    for i in range(CLIP_S * FPS):
        buffer = Gst.Buffer.new_wrapped(render(site, camera, START_S + i / FPS).tobytes())
        buffer.pts, buffer.duration = i * Gst.SECOND // FPS, Gst.SECOND // FPS
        source.push_buffer(buffer)
    source.end_of_stream()
    ended = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    if ended is None or ended.type == Gst.MessageType.ERROR:
        raise RuntimeError(f"{path} could not be written: {ended.parse_error()[0].message if ended else 'it took too long'}")
    unfinished.rename(path)
    return path


@contextmanager
def cameras(count: int) -> Iterator[tuple[dict[str, str], int]]:
    """So many cameras as addresses by id, and the process that serves them."""
    command = [sys.executable, "-m", "bench.system.site", str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the cameras did not start; what is wrong stands above")
        yield json.loads(line), process.pid
    finally:
        process.terminate()
        process.wait(10)


def main(count: int) -> None:
    """Serve so many cameras until standard input ends."""
    from simulator.rtsp import RtspSite

    clips = [clip(camera) for camera in CAMERAS]
    server = RtspSite(lambda *_: render(Site(SEED), CAMERAS[0], START_S), fps=FPS)
    names = [*CAMERAS, *(f"{CAMERAS[i % len(CAMERAS)]}-{i}" for i in range(len(CAMERAS), count))][:count]
    for i, name in enumerate(names):
        server.add_file(name, clips[i % len(clips)])
    server.start()
    print(json.dumps({name: server.uri(name) for name in names}), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    typer.run(main)
