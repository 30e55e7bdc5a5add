"""What was seen and could not be kept, by camera, so that an answer can say so."""

import json
from typing import Any

from pipeline.core import Gap, TimeRange
from storage import keys

KEPT = 500  # a camera; older ones are then unexplained holes


def note(client: Any, gap: Gap, ttl_ms: int) -> None:
    """Keeps one; the same again changes nothing."""
    name = keys.lost(gap.camera_id)
    entry = json.dumps([gap.span.start_ms, gap.span.end_ms, gap.reason])
    with client.pipeline(transaction=True) as pipe:
        pipe.zadd(name, {entry: gap.span.end_ms})
        pipe.zremrangebyrank(name, 0, -KEPT - 1)
        pipe.pexpire(name, ttl_ms)
        pipe.execute()


def of(client: Any, camera_id: str, when: TimeRange | None) -> list[Gap]:
    """Those that reach into a time, in the order of their ends; what cannot be read is left out."""
    entries = client.zrangebyscore(keys.lost(camera_id), when.start_ms if when else "-inf", "+inf")
    found = [gap for entry in entries if (gap := _gap(camera_id, entry))]
    return [gap for gap in found if when is None or gap.span.overlaps(when)]


def delete(client: Any, name: bytes, span: TimeRange) -> None:
    """Deletes those that reach into a span."""
    for entry in client.zrangebyscore(name, span.start_ms, "+inf"):
        gap = _gap("", entry)
        if gap is None or gap.span.overlaps(span):
            client.zrem(name, entry)


def _gap(camera_id: str, entry: bytes) -> Gap | None:
    try:
        start_ms, end_ms, reason = json.loads(entry)
    except (ValueError, TypeError):
        return None
    if type(start_ms) is not int or type(end_ms) is not int or type(reason) is not str:
        return None
    return Gap(camera_id=camera_id, span=TimeRange(start_ms=start_ms, end_ms=end_ms), reason=reason)
