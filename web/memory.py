"""What is remembered, in numbers, and how it is deleted."""

from typing import Annotated, Protocol, Self

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from pipeline.core import BadSpan, Kept, TimeRange, UnknownCamera
from web.schemas import GapOut, Id, Moment, SpanOut, now_ms

GAPS = 20  # told of a camera, the newest


class Store(Protocol):
    """The memory. Every call may block, and raises StoreUnavailable when it cannot be served."""

    def kept(self, camera_id: str, /) -> Kept:
        """What there is of a camera."""

    def delete(self, camera_id: str, span: TimeRange, /) -> int:
        """Delete every trace of a span; how many carriers and pictures there were."""


class Registry(Protocol):
    """What is told of it. Every call may block, and raises StoreUnavailable when it cannot be served."""

    def ever(self) -> list[str]:
        """The cameras that are or were watched."""

    def forget(self, camera_id: str, when: TimeRange | None = None, /) -> int:
        """Delete the alerts that rest on a time, or every report of a camera; how many alerts there were."""


class KeptOut(BaseModel):
    """What is remembered of a camera; bytes are estimated."""

    camera: str
    remembered: SpanOut | None
    carriers: int
    carrier_bytes: int
    pictures: int
    picture_bytes: int
    gaps: list[GapOut]  # what was seen and could not be kept

    @classmethod
    def of(cls, kept: Kept) -> Self:
        """The numbers as they are sent."""
        return cls(
            camera=kept.camera_id,
            remembered=SpanOut.of(kept.span) if kept.span else None,
            carriers=kept.carriers,
            carrier_bytes=kept.carrier_bytes,
            pictures=kept.pictures,
            picture_bytes=kept.picture_bytes,
            gaps=[GapOut.of(gap) for gap in kept.gaps[-GAPS:]],
        )


def memory(registry: Registry, store: Store) -> APIRouter:
    """The memory."""
    router = APIRouter(prefix="/memory")

    @router.get("")
    def list_memory() -> dict[str, list[KeptOut]]:
        return {"memory": [KeptOut.of(store.kept(camera)) for camera in registry.ever()]}

    @router.delete("/{camera}")
    def delete_memory(
        camera: Annotated[Id, Path()], since: Annotated[Moment | None, Query()] = None, until: Annotated[Moment | None, Query()] = None
    ) -> dict[str, str | int | SpanOut]:
        now = now_ms()
        span = TimeRange(start_ms=since or 0, end_ms=now if until is None else min(until, now))
        if span.start_ms > span.end_ms:
            raise BadSpan("since lies after until, or is yet to come")
        if camera not in registry.ever():
            raise UnknownCamera(f"no camera {camera} is or was watched")
        alerts = registry.forget(camera, span)
        return {"camera": camera, "span": SpanOut.of(span), "deleted": store.delete(camera, span) + alerts}

    return router
