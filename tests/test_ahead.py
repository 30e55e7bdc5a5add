"""Batches of names, each asked for before the answer to the last is read."""

from collections.abc import Iterator

import pytest
import redis

from storage import ahead
from storage.connect import connect

pytestmark = pytest.mark.redis

NAMES = [f"n{i}" for i in range(64)]
BATCHES = [NAMES[start : start + 8] for start in range(0, len(NAMES), 8)]
VALUES = [b"value of %d" % i if i % 5 else None for i in range(len(NAMES))]


@pytest.fixture
def admin(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        client.mset({name: value for name, value in zip(NAMES, VALUES, strict=True) if value})
        yield client


def flat(batches: Iterator[ahead.Values]) -> list[bytes | None]:
    return [value for values in batches for value in values]


def cut_all(admin: redis.Redis) -> None:
    admin.client_kill_filter(_type="normal", skipme=True)


def test_every_batch_gets_its_own_values(admin: redis.Redis, redis_url: str) -> None:
    client = connect(redis_url)
    for size in (1, 7, 64, 100):
        assert flat(ahead.mget(client, [NAMES[start : start + size] for start in range(0, len(NAMES), size)])) == VALUES
    assert flat(ahead.mget(client, [])) == []


def test_a_connection_that_is_cut_is_made_good_once(admin: redis.Redis, redis_url: str) -> None:
    asked = ahead.mget(connect(redis_url), BATCHES)
    first = next(asked)
    cut_all(admin)
    assert [*first, *flat(asked)] == VALUES


def test_a_connection_that_is_cut_again_and_again_is_an_error(admin: redis.Redis, redis_url: str) -> None:
    with pytest.raises(redis.ConnectionError):
        for _ in ahead.mget(connect(redis_url), BATCHES):
            cut_all(admin)


def test_who_stops_in_between_leaves_no_answer_to_the_next(admin: redis.Redis, redis_url: str) -> None:
    client = connect(redis_url)
    asked = ahead.mget(client, BATCHES)
    next(asked)
    asked.close()
    assert client.get("n1") == VALUES[1] and flat(ahead.mget(client, BATCHES)) == VALUES


def test_a_refusal_is_told_and_leaves_no_answer_to_the_next(admin: redis.Redis, redis_url: str) -> None:
    admin.execute_command("ACL", "SETUSER", "half", "on", ">pw", "+mget", "+client", *(f"~{name}" for name in BATCHES[0]))
    try:
        client = connect(redis_url.replace("redis://", "redis://half").replace(redis_url.partition("://:")[2].partition("@")[0], "pw"))
        with pytest.raises(redis.exceptions.NoPermissionError):
            flat(ahead.mget(client, BATCHES))
        assert flat(ahead.mget(client, BATCHES[:1])) == VALUES[:8]
    finally:
        admin.execute_command("ACL", "DELUSER", "half")
