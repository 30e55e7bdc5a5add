"""How Redis is reached: one server, a Sentinel's master or a Cluster, chosen by the URL's scheme."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from pipeline.core import StoreUnavailable

SENTINEL_PORT = 26379


def connect(url: str, timeout_s: float = 1.0) -> Any:
    """A client none of whose calls waits long: about twice `timeout_s`, with its one retry.

    redis://, rediss:// (TLS) or unix:// (a socket of this machine) is one server, redis+cluster:// or rediss+cluster:// a Cluster,
    by any of its nodes, and redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB the master that Sentinels name. Any,
    because redis-py types every reply as text or bytes or more, and here it is always bytes.
    """
    # RESP2: common to Redis 7, Valkey and the disk-backed stores, and no slower for large values.
    options: dict[str, Any] = {"protocol": 2, "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    options["retry"] = Retry(ExponentialBackoff(base=0.05, cap=0.2), retries=1)
    scheme, _, rest = url.partition("://")
    if scheme in ("redis+cluster", "rediss+cluster"):
        with reaching():
            return RedisCluster.from_url(f"{scheme.removesuffix('+cluster')}://{rest}", **options)
    if scheme == "redis+sentinel":
        return _master(url, options)
    return redis.Redis.from_url(url, **options)


def _master(url: str, options: dict[str, Any]) -> Any:
    """The client asks the Sentinels anew whenever it connects, so it follows a fail-over by itself."""
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("redis+sentinel:// needs the name of a service: redis+sentinel://HOST:PORT/SERVICE/DB")
    hosts = [(host, int(port or SENTINEL_PORT)) for host, _, port in (place.partition(":") for place in places.split(","))]
    quick = {name: value for name, value in options.items() if name != "retry"}
    sentinel = Sentinel(hosts, sentinel_kwargs=quick, username=unquote(user) or None, password=unquote(password) or None, **options)
    return sentinel.master_for(service, db=int(db or 0))


@contextmanager
def reaching() -> Iterator[None]:
    """Turns whatever Redis refuses or fails to do into StoreUnavailable. The client's messages hold no password."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"the store cannot be used now: {error}") from error
