"""Carriers and writes for the tests of the memory."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core import VECTOR, Carrier, CarrierKey, CarrierWrite, Claim, StoreUnavailable, TimeRange
from storage.store import CarrierStore

FINGERPRINT = "0a1b2c3d"
HEAD = "aaaa1111"


def carrier(at_ms: int, camera_id: str = "dock", fingerprint: str = FINGERPRINT) -> Carrier:
    rng = np.random.default_rng(at_ms)
    return Carrier(
        key=CarrierKey(camera_id=camera_id, at_ms=at_ms),
        fingerprint=fingerprint,
        span=TimeRange(start_ms=at_ms, end_ms=at_ms + 900),
        embedding=rng.standard_normal(32).astype(np.float16),
        kv=rng.standard_normal((3, 2, 2, 8)).astype(np.float16),
    )


def write(
    at_ms: int, camera_id: str = "dock", live: tuple[int, ...] = (), fingerprint: str = FINGERPRINT, claim: Claim | None = None
) -> CarrierWrite:
    return CarrierWrite(carrier=carrier(at_ms, camera_id, fingerprint), picture=b"\xff\xd8 %d" % at_ms, live=live or (at_ms,), claim=claim)


def vector(at_ms: int) -> NDArray[np.float32]:
    return np.random.default_rng([1, at_ms]).standard_normal(VECTOR).astype(np.float32)


def telling(at_ms: int, camera_id: str = "dock", **more: Any) -> CarrierWrite:
    """A write with a vector."""
    return saying(write(at_ms, camera_id, **more), vector(at_ms))


def saying(write: CarrierWrite, vector: NDArray[np.float32]) -> CarrierWrite:
    """The same, of a carrier with that vector."""
    return replace(write, carrier=replace(write.carrier, vector=vector))


def key(at_ms: int, camera_id: str = "dock") -> CarrierKey:
    return CarrierKey(camera_id=camera_id, at_ms=at_ms)


def assert_same(ours: Carrier | None, theirs: Carrier) -> None:
    assert ours is not None
    assert (ours.key, ours.fingerprint, ours.span) == (theirs.key, theirs.fingerprint, theirs.span)
    for mine, yours in zip(arrays(ours), arrays(theirs), strict=True):
        assert (mine.dtype, mine.shape, mine.tobytes()) == (yours.dtype, yours.shape, yours.tobytes())


def arrays(of: Carrier) -> list[NDArray[Any]]:
    return [of.embedding, of.kv, *([of.patches.kv, of.patches.places] if of.patches else [])]


def dump(client: Any) -> dict[bytes, bytes]:
    """Every key with its value, as Redis itself would write them down."""
    return {name: client.dump(name) for name in client.scan_iter()}


def eventually(holds: Callable[[], bool], within_s: float = 60) -> None:
    """Wait for what must come true; how soon is never the question here."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(StoreUnavailable):
            if holds():
                return
        time.sleep(0.005)  # to let it come true
    pytest.fail("never came true")


@dataclass(frozen=True)
class Word:
    """What a model has said so far."""

    text: str
    probability: float = 1.0
    attention: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    ended: bool = False


class Watched(CarrierStore):
    """A memory that knows what was read of it."""

    read: Sequence[CarrierKey] = ()

    def get(self, keys: Sequence[CarrierKey]) -> list[Carrier | None]:
        self.read = keys
        return super().get(keys)
