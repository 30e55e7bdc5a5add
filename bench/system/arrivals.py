"""When carriers reach the memory, as Redis itself tells of it: nothing is polled, and the system under measurement does nothing for it."""

import re
import threading
import time
from types import TracebackType
from typing import Self

import redis

CARRIER = re.compile(rb"lw:\{([^}]*)\}:kv:[0-9a-f]+:([0-9]+)")
CHANNEL = "__keyevent@0__:set"


class Arrivals:
    """Of every carrier that arrives from now on: its camera, when it came (seconds of UNIX time), and how long after its capture."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._told = self._client.pubsub(ignore_subscribe_messages=True)
        self._told.subscribe(CHANNEL)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="arrivals", daemon=True)
        self.seen: list[tuple[str, float, float]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._told.close()
        self._client.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            message = self._told.get_message(timeout=0.2)
            if message and (found := CARRIER.fullmatch(message["data"])):
                now_s = time.time()
                self.seen.append((found[1].decode(), now_s, now_s - int(found[2]) / 1000))

    def lags(self, since_s: float, until_s: float) -> list[float]:
        """Seconds from capture to memory of the carriers that came within a time."""
        return [lag for _, at_s, lag in list(self.seen) if since_s <= at_s < until_s]

    def wait(self, cameras: int, patience_s: float = 120) -> None:
        """Until so many cameras have sent a carrier since the last call. Raises TimeoutError."""
        self.seen.clear()
        deadline = time.monotonic() + patience_s
        while len({camera for camera, _, _ in list(self.seen)}) < cameras:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all of {cameras} cameras were seen within {patience_s:g} s")
            time.sleep(0.1)
