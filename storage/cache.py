"""Carriers that were read lately, in the process that reads them. They never change, so only deletion can make one wrong."""

import threading
from collections import OrderedDict

from pipeline.core import Carrier, CarrierKey

OVERHEAD = 1024  # bytes of Python around a carrier's arrays


class CarrierCache:
    """At most `limit` bytes, the least recently used goes first. Safe to share between threads.

    An entry is good for the generation of its camera's memory that it was read in; a deletion begins another.
    """

    def __init__(self, limit: int) -> None:
        self.hits = 0
        self.misses = 0
        self.bytes = 0
        self._limit = limit
        self._entries: OrderedDict[CarrierKey, tuple[bytes | None, Carrier]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: CarrierKey, generation: bytes | None) -> Carrier | None:
        """The carrier, if it was read in this generation."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or generation is None or entry[0] != generation:
                self._drop(key)
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[1]

    def put(self, carrier: Carrier, generation: bytes | None) -> None:
        """Keeps a carrier, at the cost of others; one that was read before its camera's first write has no generation, and is not kept."""
        if generation is None:
            return
        with self._lock:
            self._drop(carrier.key)
            self._entries[carrier.key] = (generation, carrier)
            self.bytes += _size(carrier)
            while self.bytes > self._limit:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: CarrierKey) -> None:
        if entry := self._entries.pop(key, None):
            self.bytes -= _size(entry[1])


def _size(carrier: Carrier) -> int:
    return carrier.embedding.nbytes + carrier.kv.nbytes + OVERHEAD
