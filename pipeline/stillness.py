"""Pictures in which nothing has changed are not worth a carrier each: which to pass on to the prefill plane."""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from pipeline.core import Frame

CELL = 16  # pixels: large enough to average noise away, smaller than a person at the far end of a yard
CELLS = 3  # changed at least: a camera's own clock changes one or two
LEVELS = 6.0  # of 255, by which a cell's mean colour has changed
NOISE = 6.0  # or so many times what most cells change by, where a camera is noisy,
MOST = 15.0  # but no more: where everything has changed, by a lamp or by the camera's own exposure, nothing may hide in it


class Unchanged:
    """Of one camera, which pictures show nothing new, for at most `longest_ms`.

    The comparison is with the last that did show something new, not with the picture before, so that nothing can change too slowly to
    be noticed.
    """

    def __init__(self, longest_ms: int) -> None:
        self._longest_ms = longest_ms
        self._last: tuple[int, NDArray[np.float32]] | None = None

    def since(self, frame: Frame) -> int | None:
        """When the picture is from that this one shows nothing new against; None if it does, and then it is the next to compare with."""
        seen = cells(frame.image)
        if self._last and frame.captured_ms - self._last[0] <= self._longest_ms and not differ(seen, self._last[1]):
            return self._last[0]
        self._last = frame.captured_ms, seen
        return None


class StillGate:
    """Of one camera, passes each picture that differs from the last one passed, and after `still_s` seconds any."""

    def __init__(self, still_s: float) -> None:
        self._open = not still_s
        self._unchanged = Unchanged(ceil(still_s * 1000) - 1)  # the last millisecond before
        self.still = 0  # pictures held back

    def passes(self, frame: Frame) -> bool:
        """Whether to hand the picture on."""
        if self._open or self._unchanged.since(frame) is None:
            return True
        self.still += 1
        return False


def cells(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colours [rows, columns, 3] of the cells of a picture [height, width, 3]; what is left at the edges is left out."""
    rows, columns = image.shape[0] // CELL, image.shape[1] // CELL
    whole = image[: rows * CELL, : columns * CELL]
    # First down, over whole rows: 13 times as fast as a mean over both axes, and as exact, since 256 times 255 fits.
    down = whole.reshape(rows, CELL, columns * CELL * 3).sum(axis=1, dtype=np.uint16)
    means: NDArray[np.float32] = down.reshape(rows, columns, CELL, 3).sum(axis=2, dtype=np.uint16) / np.float32(CELL * CELL)
    return means


def differ(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether something is in one picture and not in the other; of pictures too small to tell it is always so."""
    if a.shape != b.shape or a.shape[0] * a.shape[1] < CELLS:
        return True
    change = np.abs(a - b).max(axis=-1)
    limit = max(LEVELS, min(MOST, NOISE * float(np.median(change))))
    return int((change > limit).sum()) >= CELLS
