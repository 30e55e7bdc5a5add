"""Which pictures of a stream to decode, and which of those to keep. Times are nanoseconds of the stream."""

from collections import deque

_SECOND = 1_000_000_000


class KeyGate:
    """Decides which coded pictures are worth decoding: all, or, when key frames alone come often enough, only those."""

    def __init__(self, fps: float, longest_s: float) -> None:
        # 10 % slack: a key frame a second serves one frame a second, in spite of jitter.
        self._enough_ns = min(1.1 / fps, longest_s) * _SECOND
        self._intervals: deque[float] = deque(maxlen=3)  # three, so that one scene cut does not pass for a rate
        self._last_key_ns: int | None = None

    @property
    def keys_only(self) -> bool:
        """Whether key frames alone serve the rate, as far as measured."""
        return len(self._intervals) == 3 and max(self._intervals) <= self._enough_ns

    def passes(self, at_ns: int, is_key: bool) -> bool:
        """Whether to decode the picture. Decoding all (re)starts at a key frame: without its past any other comes out grey."""
        if not is_key:
            return self._last_key_ns is not None and not self.keys_only
        if self._last_key_ns is not None:
            self._intervals.append(at_ns - self._last_key_ns)
        self._last_key_ns = at_ns
        return True


class Sampler:
    """Picks `fps` pictures a second on a steady grid, so that jitter does not add up."""

    def __init__(self, fps: float) -> None:
        self._period_ns = round(_SECOND / fps)
        self._due_ns: int | None = None

    def due(self, at_ns: int) -> bool:
        """Whether a picture of this time would be taken."""
        if self._due_ns is None or at_ns < self._due_ns - 2 * self._period_ns:  # the first, or time went back
            return True
        return at_ns >= self._due_ns - self._period_ns // 10

    def take(self, at_ns: int) -> bool:
        """As `due`, and if so the next one is due a period later."""
        if not self.due(at_ns):
            return False
        on_grid = self._due_ns if self._due_ns is not None and abs(at_ns - self._due_ns) < self._period_ns else at_ns
        self._due_ns = on_grid + self._period_ns
        return True


class Thinned:
    """Picks, of `fps` pictures a second, a share that may change from one to the next."""

    def __init__(self, fps: float) -> None:
        self._fps, self._share = fps, 1.0
        self._sampler = Sampler(fps)

    def takes(self, at_ms: int, share: float) -> bool:
        """Whether to keep a picture of this time."""
        if share != self._share:
            self._share, self._sampler = share, Sampler(self._fps * share)
        return share == 1 or self._sampler.take(at_ms * 1_000_000)
