"""A real RTSP server in a process of its own, so that tests can kill it or stop it, and pictures that tell when they were drawn."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

FPS = 8
_BITS = 16  # of the tick, each a block 40 pixels wide


def draw_clock(_camera_id: str, at_s: float) -> NDArray[np.uint8]:
    """Above, red; below, the tick of the time in black and white blocks."""
    tick = round(at_s * FPS)
    picture = np.zeros((360, 640, 3), np.uint8)
    picture[:120] = (255, 0, 0)
    for bit in range(_BITS):
        picture[120:, bit * 40 : bit * 40 + 40] = 255 * (tick >> bit & 1)
    return picture


def read_clock(image: NDArray[np.uint8], near_s: float) -> float:
    """When a picture was drawn, given roughly when."""
    blocks = image[160:340].reshape(180, _BITS, 40, 3)[:, :, 8:32].mean(axis=(0, 2, 3)) > 127
    tick = sum(1 << bit for bit in range(_BITS) if blocks[bit])
    turn = 1 << _BITS
    return (tick + round((near_s * FPS - tick) / turn) * turn) / FPS


def _serve(pipe: Connection, port: int, login: tuple[str, str] | None) -> None:
    from simulator.rtsp import RtspSite

    site = RtspSite(draw_clock, fps=FPS, login=login)
    for codec in ("h264", "h265", "mjpeg"):
        site.add_camera(codec, codec=codec)
    pipe.send(site.start(port))
    pipe.poll(None)  # until the test ends it, or dies


class SiteProcess:
    """A site with one camera per codec, named after it."""

    def __init__(self, *, port: int = 0, login: tuple[str, str] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, port, login), daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def uri(self, camera_id: str, login: str = "") -> str:
        return f"rtsp://{login}127.0.0.1:{self.port}/{camera_id}"

    def fall_silent(self) -> None:
        """The process keeps its sockets and says nothing more."""
        os.kill(self._process.pid or 0, signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
