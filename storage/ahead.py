"""Several MGETs in a row, each asked for before the answer to the last is read: Redis looks up while its client reads."""

from collections.abc import Generator, Sequence
from typing import Any

import redis

Values = Sequence[bytes | None]  # in the order of the names; None: not there

RETRIES = 1  # as of any command: what is read may be asked for again


def mget(client: Any, batches: Sequence[Sequence[str]]) -> Generator[Values, None, None]:
    """The values of each batch of names, in turn. A server holds the answers to two batches at most."""
    if not isinstance(client, redis.Redis):  # a Cluster's client finds a connection for each command by itself
        yield from map(client.mget, batches)
        return
    done, retries = 0, RETRIES
    while done < len(batches):
        try:
            for values in _in_turn(client.connection_pool, batches[done:]):
                done += 1
                yield values
        except (redis.ConnectionError, redis.TimeoutError):
            if not retries:
                raise
            retries -= 1


def _in_turn(pool: Any, batches: Sequence[Sequence[str]]) -> Generator[Values, None, None]:
    connection, left = pool.get_connection(), len(batches)
    try:
        connection.send_command("MGET", *batches[0])
        for following in (*batches[1:], None):
            if following:
                connection.send_command("MGET", *following)
            values = connection.read_response()
            left -= 1
            yield values
    finally:
        if left:  # an answer that nobody reads would be taken for that to the next command
            connection.disconnect()
        pool.release(connection)
