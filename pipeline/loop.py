"""A thread that does one thing again and again, whatever happens to it."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 5.0


class Loop:
    """Calls `step` until closed, `every_s` apart. A step that fails is logged and tried again, later each time it fails."""

    def __init__(self, step: Callable[[], object], *, name: str, every_s: float = 0.0) -> None:
        self._step = step
        self._every_s = every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failures = 0  # in a row
        self.error: str | None = None  # of the last step, if it failed

    def start(self) -> "Loop":
        """Begin."""
        self._thread.start()
        return self

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop after the step under way; also one that never began."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closed.wait(self._pause()):
            try:
                self._step()
                self.failures, self.error = 0, None
            except Exception as error:  # noqa: BLE001 - the one place that keeps a plane alive
                self.failures += 1
                self.error = f"{type(error).__name__}: {error}"
                log.warning("%s failed (%d in a row): %s", self._thread.name, self.failures, self.error)

    def _pause(self) -> float:
        return self._every_s if not self.failures else min(LONGEST_WAIT_S, 0.1 * 2 ** min(self.failures, 10))
