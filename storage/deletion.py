"""Deleting what is remembered of a camera: by a scan of the whole keyspace, since no index may decide what is left behind."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from pipeline.core import TimeRange
from storage import guard, keys, losses, shelf, vectors

SCAN_BATCH = 1000
LIVE_LIMIT = 1 << 16  # carriers in a live memory


def delete(client: Any, camera_id: str, span: TimeRange) -> int:
    """Deletes every trace that lies in the span, by whatever model, and says how many carriers and pictures that were.

    Of a prefiller, what is under way in the span is refused from now on. A trace that reaches into the span goes whole.
    """
    guard.mark_deleted(client, camera_id, span)
    removed = 0
    for batch in _batches(client, camera_id):
        values = [name for name in batch if (at_ms := keys.moment(name)) is not None and at_ms in span]
        removed += client.unlink(*values) if values else 0
        for name in batch:
            if keys.moment(name) is None:
                _delete_from(client, camera_id, name, span)
    return removed


def _batches(client: Any, camera_id: str) -> Iterator[Sequence[bytes]]:
    batch: list[bytes] = []
    for name in client.scan_iter(match=keys.everything_of(camera_id), count=SCAN_BATCH):
        batch.append(name)
        if len(batch) == SCAN_BATCH:
            yield batch
            batch = []
    yield batch


def _delete_from(client: Any, camera_id: str, name: bytes, span: TimeRange) -> None:
    """From an index, a live list, an hour of vectors or the list of losses, whichever this is."""
    kind = name.split(b":")[2]
    if kind in (b"ix", b"pictures"):
        client.zremrangebyscore(name, span.start_ms, span.end_ms)
        shelf.of_index(camera_id, name).drop_repeats(client, span.end_ms)
    elif kind == b"vec":
        vectors.delete(client, name, span)
    elif kind == b"lost":
        losses.delete(client, name, span)
    elif kind == b"live":
        left = [at_ms for at_ms in live_times(client.get(name)) or [] if at_ms not in span]
        if left:
            client.set(name, msgpack.packb(left), keepttl=True)
        else:
            client.unlink(name)


def live_times(value: bytes | None) -> list[int] | None:
    """The at_ms of a live memory, ascending; None for a value that is no such list."""
    try:
        times = msgpack.unpackb(value, max_array_len=LIVE_LIMIT, max_ext_len=0) if value else []
    except (ValueError, msgpack.UnpackException):
        return None
    if type(times) is not list or any(type(at_ms) is not int for at_ms in times):
        return None
    return sorted(set(times))
