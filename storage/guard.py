"""Who may write a camera's memory, and what was deleted of it: one small hash a camera, read and watched by every put."""

import secrets
import time
from typing import Any

from pipeline.core import Claim, Superseded, TimeRange
from storage import keys

STRAGGLERS_MS = 600_000  # for this long after a deletion, writes that were under way may still arrive
FIELDS = ("epoch", "generation", "deleted_from", "deleted_to")


def claim(client: Any, camera_id: str, grant: int, last: Claim | None, ttl_ms: int) -> Claim:
    """Fences off whoever wrote the camera before. Raises Superseded when someone has it by a later grant, or came after us by the same.

    So a prefiller that was thought dead, and replaced, does not take its cameras back unless it is granted them anew. Epochs begin at
    the clock, lest a server that restarts empty hands out old ones again.
    """
    name = keys.guard(camera_id)
    with client.pipeline(transaction=True) as pipe:
        pipe.watch(name)
        epoch, generation, latest = pipe.hmget(name, "epoch", "generation", "grant")
        if int(latest or 0) > grant:
            raise Superseded(f"another prefiller was given {camera_id} later than this one")
        _check_epoch(camera_id, epoch, last if last and last.grant == grant else None)
        ours = Claim(epoch=max(int(epoch or 0) + 1, now_ms()), generation=(generation or _new_generation()).decode(), grant=grant)
        pipe.multi()
        _write(pipe, name, ours, ttl_ms)
        pipe.execute()
    return ours


def admit(pipe: Any, camera_id: str, ours: Claim | None) -> TimeRange | None:
    """Watches the guard, so that the transaction fails if it changes, and gives the span that was deleted last, if any.

    Raises Superseded when a newer prefiller has the camera, or when something was deleted since the claim: what was under way rests
    on it. A guard that is not there (a server that restarted empty, an eviction) lets through; the transaction should `renew` it.
    """
    name = keys.guard(camera_id)
    pipe.watch(name)
    epoch, generation, deleted_from, deleted_to = pipe.hmget(name, *FIELDS)
    _check_epoch(camera_id, epoch, ours)
    if ours and generation and generation.decode() != ours.generation:
        raise Superseded(f"what was under way of {camera_id} is dropped: its memory was deleted, in whole or in part")
    return TimeRange(start_ms=int(deleted_from), end_ms=int(deleted_to)) if deleted_to else None


def renew(pipe: Any, camera_id: str, ours: Claim, ttl_ms: int) -> None:
    """Queues the guard as the claim has it."""
    _write(pipe, keys.guard(camera_id), ours, ttl_ms)


def mark_deleted(client: Any, camera_id: str, span: TimeRange) -> None:
    """From now on, nothing of the span is admitted, and nothing that was begun before."""
    name = keys.guard(camera_id)
    fields = {"generation": _new_generation(), "deleted_from": span.start_ms, "deleted_to": span.end_ms}
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(name, mapping=fields)
        pipe.pexpire(name, STRAGGLERS_MS)  # a camera that is written on renews it
        pipe.execute()


def generation(client: Any, camera_id: str) -> bytes | None:
    """Changes with every deletion; None before the first write."""
    found: bytes | None = client.hget(keys.guard(camera_id), "generation")
    return found


def _write(pipe: Any, name: str, ours: Claim, ttl_ms: int) -> None:
    pipe.hset(name, mapping={"epoch": ours.epoch, "generation": ours.generation, "grant": ours.grant})
    pipe.pexpire(name, ttl_ms)


def _check_epoch(camera_id: str, epoch: bytes | None, ours: Claim | None) -> None:
    if ours and int(epoch or 0) > ours.epoch:
        raise Superseded(f"another prefiller has taken {camera_id} over; this one writes it no more")


def _new_generation() -> bytes:
    return secrets.token_hex(8).encode()


def now_ms() -> int:
    """By this machine's clock."""
    return time.time_ns() // 1_000_000
