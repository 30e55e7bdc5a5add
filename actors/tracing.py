"""One trace a frame and one a question, for whoever OTEL_EXPORTER_OTLP_ENDPOINT names; without it nothing is loaded and nothing done.

A frame's trace is named by its camera and time alone: every process knows which trace its work belongs to, and nothing travels with
the frame. A question carries its own.
"""

import os
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol, Self

from pipeline.core import CarrierKey, LongwatchError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TracingMissing(LongwatchError):
    """Traces are wanted, and what sends them is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Which trace, and the span that all others hang from."""

    id: int  # 128 bits, not 0
    root: int  # 64 bits, not 0

    @classmethod
    def of(cls, key: CarrierKey) -> Self:
        """A frame's, the same in every process."""
        digest = blake2b(f"{key.camera_id} {key.at_ms}".encode(), digest_size=24).digest()
        return cls(id=int.from_bytes(digest[:16], "big") or 1, root=int.from_bytes(digest[16:], "big") or 1)

    @classmethod
    def new(cls) -> Self:
        """One that was never used."""
        return cls(id=secrets.randbits(128) or 1, root=secrets.randbits(64) or 1)


class Tracer(Protocol):
    """Where spans go. Never waits."""

    def span(self, trace: Trace, name: str, start_ns: int, end_ns: int, *, root: bool = False, **attributes: str | int) -> None:
        """Something that was done, in UNIX nanoseconds."""


class Off:
    """Nobody wants to know."""

    def span(self, trace: Trace, name: str, start_ns: int, end_ns: int, *, root: bool = False, **attributes: str | int) -> None:
        """Forget it."""


def wanted() -> bool:
    """Whether a collector is named. Raises TracingMissing."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    try:
        import actors.otlp  # noqa: F401
    except ImportError:
        raise TracingMissing(f"{' or '.join(ENDPOINTS)} is set, and OpenTelemetry is not here: pip install 'longwatch[tracing]'") from None
    return True


def tracer(plane: str) -> Tracer:
    """What a process sends its spans to. Raises TracingMissing."""
    if not wanted():
        return Off()
    from actors.otlp import Otlp

    return Otlp(plane)
