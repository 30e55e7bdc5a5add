"""What can befall a store: a proxy that is slow or cuts, and servers that freeze, fill up, or come back."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from storage.redis_server import PrivateRedis


class Proxy:
    """Stands before a server on loopback. `delay_s` goes before every packet to it; after `cut_after` bytes to it, a connection ends."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.cuts = 0
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if to_server:
                    time.sleep(self.delay_s)
                    if self.cut_after is not None and passed + len(data) > self.cut_after:
                        sink.sendall(data[: self.cut_after - passed])
                        self.cuts += 1
                        break
                passed += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def through(url: str, proxy: Proxy) -> str:
    """The URL, by way of the proxy."""
    head, _, tail = url.rpartition(":")
    return f"{head}:{proxy.port}/{tail.partition('/')[2]}"


def port_of(server: PrivateRedis) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


class Servers:
    """A server that can be done things to; each fault ends with its context."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        # Blocked in it: a write beyond a limit then fails, as on a full disk, and does not end it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGXFSZ])
        self.first = PrivateRedis(folder, durable=durable)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGXFSZ])
        self._stack = ExitStack()
        self._stack.callback(self.first.stop)

    def close(self) -> None:
        self._stack.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        os.kill(self.first.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.first.pid, signal.SIGCONT)

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Comes back on the same port, with what it had written down, if anything."""
        os.kill(self.first.pid, signal.SIGKILL)
        self.first.stop()
        yield
        program = shutil.which("redis-server")
        assert program
        again = subprocess.Popen([program, str(self._folder / "redis.conf")], stdout=subprocess.DEVNULL)
        self._stack.callback(again.wait)
        self._stack.callback(again.terminate)

    def await_appended(self) -> None:
        """Until a durable server has handed to the system everything that it acknowledged."""
        with redis.Redis.from_url(self.first.url) as client:
            while client.info("persistence")["aof_buffer_length"]:
                time.sleep(0.01)

    @contextmanager
    def full(self) -> Iterator[None]:
        with redis.Redis.from_url(self.first.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
            yield
            client.config_set("maxmemory", 0)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """A replica of a master that is gone."""
        with redis.Redis.from_url(self.first.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            yield
            client.execute_command("REPLICAOF", "NO", "ONE")

    @contextmanager
    def no_room_for_snapshots(self) -> Iterator[None]:
        """The disk is full, and the server saves a snapshot every second: by default it then takes no writes."""
        with redis.Redis.from_url(self.first.url) as client:
            client.config_set("save", "1 1")
            with self._disk_full(client):
                yield

    @contextmanager
    def no_room_to_append(self) -> Iterator[None]:
        """The disk is full, and the server writes down every change."""
        with redis.Redis.from_url(self.first.url) as client:
            client.config_set("appendonly", "yes")
            while client.info("persistence")["aof_rewrite_in_progress"]:
                time.sleep(0.01)
            with self._disk_full(client):
                yield

    @contextmanager
    def _disk_full(self, client: "redis.Redis") -> Iterator[None]:
        _, most = resource.prlimit(self.first.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.first.pid, resource.RLIMIT_FSIZE, (0, most))
        with pytest.raises(redis.ResponseError, match="MISCONF"):
            while True:
                client.set("unrelated", time.time())
                time.sleep(0.01)
        yield
        resource.prlimit(self.first.pid, resource.RLIMIT_FSIZE, (most, most))
