"""What was read lately, in the process that reads it. It never changes, so only deletion can make it wrong."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

OVERHEAD = 1024  # bytes of Python around an entry's arrays


class Cache:
    """At most `limit` bytes, the least recently used goes first. Safe to share between threads.

    An entry is good for the stamp that it was put with: the generation of its camera's memory, which a deletion ends, and of what
    grows its length too. What was read before its camera's first write has no stamp, and is not kept.
    """

    def __init__(self, limit: int) -> None:
        self.hits = 0
        self.misses = 0
        self.bytes = 0
        self._limit = limit
        self._entries: OrderedDict[Hashable, tuple[Hashable, int, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, stamp: Hashable | None) -> Any:
        """What was put under this key and this stamp; else None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or stamp is None or entry[0] != stamp:
                self._drop(key)
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[2]

    def put(self, key: Hashable, stamp: Hashable | None, value: Any, size: int) -> None:
        """Keeps a value whose arrays have `size` bytes, at the cost of others."""
        if stamp is None:
            return
        with self._lock:
            self._drop(key)
            self._entries[key] = (stamp, size + OVERHEAD, value)
            self.bytes += size + OVERHEAD
            while self.bytes > self._limit:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        if entry := self._entries.pop(key, None):
            self.bytes -= entry[1]
