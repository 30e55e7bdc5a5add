import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from storage.redis_server import PrivateRedis, RedisNotStarted

pytestmark = pytest.mark.redis


def test_a_durable_server_remembers_and_a_private_one_forgets(tmp_path: Path) -> None:
    for durable, expected in ((True, b"1"), (False, None)):
        folder = tmp_path / f'with "space" é {durable}'
        for _ in range(2):
            with PrivateRedis(folder, durable=durable) as server, redis.Redis.from_url(server.url) as client:
                value = client.get("x")
                client.set("x", "1")
        assert value == expected


def test_it_lets_nobody_in_without_its_password_and_shows_it_to_nobody(redis_server: PrivateRedis) -> None:
    login, address = redis_server.url.removeprefix("redis://:").split("@")
    with redis.Redis.from_url(f"redis://{address}") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert login not in Path(f"/proc/{redis_server.pid}/cmdline").read_text()
    config = Path(f"/proc/{redis_server.pid}/cwd").resolve() / "redis.conf"
    assert login in config.read_text() and config.stat().st_mode & 0o077 == 0


def test_its_socket_leads_to_the_same_server_and_lets_nobody_else_in(tmp_path: Path) -> None:
    folder = tmp_path / 'with "space" é'
    with PrivateRedis(folder) as server, redis.Redis.from_url(server.url) as there, redis.Redis.from_url(server.socket_url) as here:
        there.set("x", "1")
        assert here.get("x") == b"1"
        stranger = redis.Redis.from_url(f"unix://{folder}/redis.sock")
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert (folder / "redis.sock").stat().st_mode & 0o077 == 0


def test_a_folder_whose_name_is_too_long_for_a_socket_has_none(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path / ("long" * 25)) as server:
        assert server.socket_url == server.url


def test_stop_ends_it_even_twice(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path)
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_private_server_that_cannot_run_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RedisNotStarted, match="apt-get install redis-server"):
        PrivateRedis(tmp_path)
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(RedisNotStarted, match=r"status 3; see .*redis\.log"):
        PrivateRedis(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_private_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from storage.redis_server import PrivateRedis; "
        "print(PrivateRedis(pathlib.Path(sys.argv[1])).url, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        client = redis.Redis.from_url(parent.stdout.readline().strip(), retry=None, socket_timeout=60)
        assert client.ping()
        parent.kill()
    deadline = time.monotonic() + 60
    with client, pytest.raises(redis.ConnectionError):
        while time.monotonic() < deadline:
            client.ping()
