"""A private Redis for one site on one machine, and for the tests."""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis

from pipeline.core import LongwatchError

START_TRIES = 3  # another program may take the free port first
MAX_SOCKET_NAME = 107  # bytes, of the system
STOP_S = 10
PR_SET_PDEATHSIG = 1

CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
protected-mode yes
dir {folder}
logfile {log}
save ""
appendonly {durable}
appendfsync everysec
maxmemory {max_bytes}
maxmemory-policy volatile-ttl
lazyfree-lazy-eviction yes
lazyfree-lazy-expire yes
"""


class RedisNotStarted(LongwatchError):
    """redis-server is missing, or ended before it answered."""


class PrivateRedis:
    """Runs redis-server in its own folder, on a free loopback port behind a password, until `stop` or the end of this process.

    On Linux the server also dies with the THREAD that started it: start it from one that lives as long as it should.
    Without `durable` nothing is written to disk; with it, a second of writes may be lost with the machine. `max_bytes` 0 is no limit.
    `more` are lines of redis.conf.
    """

    def __init__(
        self, folder: Path, *, durable: bool = False, max_bytes: int = 0, more: Sequence[str] = (), start_timeout_s: float = 60
    ) -> None:
        self._folder = folder.resolve()
        self._durable = durable
        self._max_bytes = max_bytes
        self._more = more
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for attempt in range(1, START_TRIES + 1):
            try:
                self._start(start_timeout_s)
                return
            except RedisNotStarted:
                if attempt == START_TRIES:
                    raise

    @property
    def url(self) -> str:
        """Where it answers, password included: hand it on, do not print it."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def socket_url(self) -> str:
        """The same by a socket of this machine, which costs less to read from. `url`, where the folder's name is too long."""
        if len(os.fsencode(self._socket)) > MAX_SOCKET_NAME:
            return self.url
        return f"unix://:{self._password}@{quote(str(self._socket))}?db=0"

    @property
    def pid(self) -> int:
        """The process, for tests that kill or freeze it."""
        return self._process.pid

    def stop(self) -> None:
        """Ends the server, and only this one; a durable one writes everything first. May be called twice."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:  # frozen, or a very slow disk
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start(self, timeout_s: float) -> None:
        self._port = _free_port()
        self._password = secrets.token_hex(16)
        # Its own process group: Ctrl-C in a terminal is for the site, which still has carriers to write.
        command = [_program(), str(self._write_config())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with_parent
        )
        try:
            self._wait_until_answering(time.monotonic() + timeout_s)
        except BaseException:
            self.stop()
            raise

    def _write_config(self) -> Path:
        """A file that only its owner may read, since arguments are seen by everybody on the machine."""
        path = self._folder / "redis.conf"
        text = CONFIG.format(
            port=self._port,
            password=self._password,
            folder=_quoted(self._folder),
            log=_quoted(self._log),
            durable="yes" if self._durable else "no",
            max_bytes=self._max_bytes,
        )
        if self.socket_url != self.url:
            text += f"unixsocket {_quoted(self._socket)}\nunixsocketperm 700\n"
        text += "".join(f"{line}\n" for line in self._more)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        return path

    @property
    def _socket(self) -> Path:
        return self._folder / "redis.sock"

    @property
    def _log(self) -> Path:
        return self._folder / "redis.log"

    def _wait_until_answering(self, deadline: float) -> None:
        with redis.Redis.from_url(self.url, protocol=2, socket_timeout=1, retry=None) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise RedisNotStarted(f"redis-server does not answer; see {self._log}") from None
                try:
                    self._process.wait(0.01)
                except subprocess.TimeoutExpired:
                    continue
                raise RedisNotStarted(f"redis-server ended with status {self._process.returncode}; see {self._log}")


def _program() -> str:
    program = shutil.which("redis-server")
    if program is None:
        raise RedisNotStarted(
            "redis-server is not installed: `sudo apt-get install redis-server` (Debian, Ubuntu) or `brew install redis` (macOS), "
            "or give the URL of a Redis of your own"
        )
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


# Loaded here, as only a bare system call is safe between fork and exec.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
