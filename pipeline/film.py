"""The pictures of a video file, as fast as they decode."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.camera import GstSource
from pipeline.core import Camera


def film(path: Path, *, fps: float, most: int) -> list[NDArray[np.uint8]]:
    """Pictures [height, width, 3] at a rate, thinned evenly to at most so many. Raises CameraLost.

    A long film takes no more memory than twice what is asked for: each time that is full, every other picture goes.
    """
    kept: list[NDArray[np.uint8]] = []
    apart = 1
    for i, frame in enumerate(GstSource(Camera(id="film", uri=path.resolve().as_uri(), fps=fps), in_time=False).frames()):
        if i % apart == 0:
            kept.append(frame.image)
        if len(kept) > 2 * most:
            kept, apart = kept[::2], 2 * apart
    return [kept[i] for i in _spread(len(kept), most)]


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly, with the first and the last."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most))})
