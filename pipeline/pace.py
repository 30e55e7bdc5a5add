"""Whether the prefill plane keeps up, seen where frames are handed over; and at what part of their rates cameras are sampled if not."""

import logging
import time
from collections.abc import Callable

from pipeline.handover import Handover, Tally

log = logging.getLogger(__name__)

WINDOW_S = 5.0  # looked at together; longer where nothing is taken: who prefills may be slow, or being restarted
MISSED = 0.05  # of a window's frames: then prefill did not keep up
IN_A_ROW = 2  # such windows before less is sampled: a restart is over by then
LEAST = 0.2  # of its rate that a camera is sampled at; beyond, newer pictures replace older ones
RISE = 1.5  # the next share, once there is room for it
FULL = 0.8  # busy: below that, larger batches make room that nobody can foresee


class Pace:
    """One for all cameras, so that all give up the same part of their rates. `look` is called again and again, by one thread."""

    def __init__(
        self, handover: Handover, clock_s: Callable[[], float] = time.monotonic, prefillers: Callable[[], int] = lambda: 1
    ) -> None:
        self._handover, self._clock_s, self._prefillers = handover, clock_s, prefillers
        self._since_s, self._before, self._missed = clock_s(), handover.tally, 0
        self.share = 1.0  # of their rates that cameras are sampled at
        self.room: float | None = None  # frames a second that prefill could take beside those it takes; None: not foreseeable

    def look(self) -> None:
        """Judge the time since the last judgement, once it is a window."""
        now, passed_s = self._handover.tally, self._clock_s() - self._since_s
        seen = Tally(
            taken=now.taken - self._before.taken, dropped=now.dropped - self._before.dropped, waited_s=now.waited_s - self._before.waited_s
        )
        if passed_s < WINDOW_S or not seen.taken:
            return
        self._since_s, self._before = self._since_s + passed_s, now
        busy = min(1.0, max(0.0, 1 - seen.waited_s / passed_s / max(1, self._prefillers())))
        self.room = seen.taken / passed_s * (1 / busy - 1) if busy > FULL else None
        share = self._next(seen, busy)
        if share != self.share:
            rate = f"{seen.taken / passed_s:.1f} of {(seen.taken + seen.dropped) / passed_s:.1f} frames a second"
            log.warning("prefill took %s: all cameras are now sampled at %.0f %% of their rates", rate, 100 * share)
        self.share = share

    def _next(self, seen: Tally, busy: float) -> float:
        kept = seen.taken / (seen.taken + seen.dropped)
        self._missed = self._missed + 1 if kept < 1 - MISSED else 0
        if self._missed >= IN_A_ROW:
            self._missed = 0
            return max(LEAST, self.share * kept)
        return min(1.0, self.share * RISE) if busy * RISE < 1 and not self._missed else self.share
