"""What was seen and could not be kept, by camera, so that an answer can say so."""

import json
from typing import Any

from pipeline.core import Gap, TimeRange
from storage import keys

KEPT = 500  # a camera; older ones are then unexplained holes


def note(client: Any, gap: Gap, ttl_ms: int) -> None:
    """Keeps one, in the place of any that begins at the same time: a loss that has grown is noted again."""
    name, start_ms = keys.lost(gap.camera_id), gap.span.start_ms
    entry = json.dumps([start_ms, gap.span.end_ms, gap.reason])
    with client.pipeline(transaction=True) as pipe:
        pipe.zremrangebyscore(name, start_ms, start_ms)
        pipe.zadd(name, {entry: start_ms})
        pipe.zremrangebyrank(name, 0, -KEPT - 1)
        pipe.pexpire(name, ttl_ms)
        pipe.execute()


def of(client: Any, camera_id: str, when: TimeRange | None) -> list[Gap]:
    """Those that reach into a time, in order; what cannot be read is left out."""
    entries = client.zrangebyscore(keys.lost(camera_id), "-inf", when.end_ms if when else "+inf")
    found = [gap for entry in entries if (gap := _gap(camera_id, entry))]
    return [gap for gap in found if when is None or gap.span.overlaps(when)]


def delete(client: Any, name: bytes, span: TimeRange) -> None:
    """Deletes those that reach into a span."""
    for entry in client.zrangebyscore(name, "-inf", span.end_ms):
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
