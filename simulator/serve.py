"""Serves a simulated site's cameras over RTSP until told to stop.

    python -m simulator.serve --seed 900001 --port 8554

Prints one line of JSON when it is ready: the cameras' addresses, the seed, and the wall time of the site's time zero.
"""

import json
import signal
import sys
import threading
import time
from typing import Annotated

import typer

from simulator.render import render
from simulator.rtsp import RtspSite
from simulator.visits import CAMERAS
from simulator.world import Site

HELD_OUT_SEED = 900_001  # a site that no model was trained on
START_S = 7_700.0  # of the site's clock, when it begins to be served: a truck comes to the dock within the first minute


def main(
    seed: int = HELD_OUT_SEED,
    port: int = 8554,
    host: str = "127.0.0.1",
    fps: float = 8,
    traffic: float = 1.0,
    epoch: Annotated[float, typer.Option(help="Wall time of the site's time zero; 0: two hours ago.")] = 0.0,
    owned: Annotated[bool, typer.Option("--owned", help="Also end when standard input does.")] = False,
) -> None:
    """Run until SIGTERM or Ctrl-C."""
    site, epoch_s = Site(seed, traffic=traffic), epoch or time.time() - START_S
    server = RtspSite(lambda camera, t: render(site, camera, t, epoch_s=epoch_s), fps=fps, epoch_s=epoch_s, host=host)
    for camera in CAMERAS:
        server.add_camera(camera)
    server.start(port)
    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: ended.set())
    if owned:  # whoever holds the other end of the pipe, however they die
        threading.Thread(target=_end_with_input, args=(ended,), daemon=True).start()
    cameras = {camera: server.uri(camera) for camera in CAMERAS}
    print(json.dumps({"cameras": cameras, "seed": seed, "traffic": traffic, "epoch": epoch_s}), flush=True)
    ended.wait()
    server.stop()


def _end_with_input(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    typer.run(main)
