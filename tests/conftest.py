"""Fixtures that the tests share."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from carriers import FINGERPRINT
from hypothesis import HealthCheck, settings

from storage.redis_server import PrivateRedis
from storage.store import CarrierStore

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # as actors/ has it; some tests import ray before
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # how fast it is, is no defect
settings.load_profile("any machine")
ROOT = Path(__file__).resolve().parent.parent


ENDED = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep how it ended."""
    session.config.stash[ENDED] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once: all is judged, told and torn down, and on Python's own way out a thread of GStreamer, Ray or gRPC may crash it."""
    if ENDED in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[ENDED])


def lacking(what: str) -> None:
    """Skips a test that cannot run here; in CI, where everything must run, fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI lacks {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    if shutil.which("redis-server") is None:
        lacking("redis-server")
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: PrivateRedis) -> str:
    """An empty Redis: the server is our own, so it may be flushed."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """The same Redis without Longwatch."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(redis_url: str) -> Iterator[CarrierStore]:
    """A memory in it."""
    opened = CarrierStore(redis_url, FINGERPRINT)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def footage() -> Path:
    """The folder of real recordings."""
    folder = ROOT.parent / "shared" / "footage"
    if not folder.is_dir():
        lacking(str(folder))
    return folder
