"""A running Longwatch whose processes are killed, and people who ask it questions all the while."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from own_time import OwnTime

from actors.demo import free_port, simulated_site
from pipeline.core import CarrierKey
from simulator.visits import CAMERAS
from storage.redis_server import PrivateRedis
from storage.store import CarrierStore

TITLES = {  # how the command lines of Ray's processes begin
    "ingest": "ray::IngestActor",
    "prefill": "ray::PrefillActor",
    "rules": "ray::RulesActor",
    "decode": "ray::ServeReplica:decode:",
    "api": "ray::ServeReplica:api:",
    "proxy": "ray::ProxyActor",
    "controller": "ray::ServeController",
}
SEED = 930_000
UP_S = 300.0
PATIENCE_S = 180.0  # then it is taken for dead
PICTURE_S = 0.125  # from picture to picture of the simulated cameras
HUNG_S = 90.0  # half a minute more than the deadline of a question


def until(reached: Callable[[], Any], patience_s: float) -> float:
    """Wait for a condition; how long that took, infinite when it took longer than the patience."""
    began_s = time.monotonic()
    while not reached():
        if time.monotonic() - began_s > patience_s:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - began_s


class Session:
    """A command in a session of its own, with all that it starts; ends with its context, whatever has become of it."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        with log.open("w") as out:
            env = os.environ | dict(environment or {})
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            self.kill_all()

    @property
    def ended(self) -> int | None:
        """Its exit code, once it has one."""
        return self._process.poll()

    def processes(self, title: str = "") -> list[int]:
        """Those of the session that still run, and whose command line begins so."""
        command = ["ps", "-ww", "-s", str(self._process.pid), "-o", "pid=,stat=,args="]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        rows = [line.split(maxsplit=2) for line in told.splitlines()]
        return [int(pid) for pid, stat, args in rows if not stat.startswith("Z") and args.startswith(title)]

    def kill_all(self) -> None:
        """kill -9, without a warning to anybody."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Running(Session):
    """`longwatch up` as people run it."""

    def __init__(self, config: Path, log: Path, *more: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__([sys.executable, "-m", "actors.cli", "up", "-c", str(config), *more], log, environment)

    def folders(self) -> set[Path]:
        """Those of its own that its processes name."""
        told = subprocess.run(
            ["ps", "-ww", "-s", str(self._process.pid), "-o", "args="], capture_output=True, text=True, check=False
        ).stdout
        return {Path(found) for found in re.findall(rf"{tempfile.gettempdir()}/lw-[^/\s]+", told)}

    def terminate(self) -> None:
        """What Ctrl-C, systemd and docker do."""
        self._process.terminate()

    def kill(self, name: str, at_most: int | None = None) -> list[int]:
        """kill -9, without a warning to anybody; whom."""
        victims = self.processes(TITLES[name])[:at_most]
        assert victims, f"no process of {name} runs"
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return victims

    @contextmanager
    def frozen(self, name: str, at_most: int | None = None) -> Iterator[None]:
        """Its processes stand still (SIGSTOP) for as long as the context lasts."""
        stopped = self.processes(TITLES[name])[:at_most]
        assert stopped, f"no process of {name} runs"
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def replaced(self, name: str, victims: list[int]) -> bool:
        """Whether others are in their place."""
        return bool(set(self.processes(TITLES[name])) - set(victims))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question and what came of it. `status` is HTTP's, None when the connection was refused or broke."""

    at_s: float
    took_s: float
    status: int | None
    said: str  # the answer, or the reason of a refusal; empty: neither

    @property
    def end_s(self) -> float:
        return self.at_s + self.took_s

    @property
    def answered(self) -> bool:
        return self.status == 200 and bool(self.said)


class People:
    """So many, each asking one question after the other for as long as the context lasts."""

    def __init__(self, url: str, count: int, pause_s: float = 0.2) -> None:
        self._url, self._pause_s = url, pause_s
        self.asked: list[Asked] = []
        self._waiting: dict[int, float] = {}  # since when each of them has been waiting for an answer
        self._gone = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    def leave(self) -> None:
        """Ask no more, and wait for what was asked."""
        self._gone.set()
        for thread in self._threads:
            thread.join(HUNG_S + 5)
        assert not any(thread.is_alive() for thread in self._threads), "a question hangs"

    def answered_since(self, at_s: float) -> bool:
        """Whether a question that was asked after a time was answered."""
        return any(asked.at_s >= at_s and asked.answered for asked in list(self.asked))

    def all_wait(self, at_least_s: float) -> bool:
        """Whether each of them has been waiting that long for an answer."""
        waiting = dict(self._waiting)
        return len(waiting) == len(self._threads) and time.monotonic() - max(waiting.values()) > at_least_s

    def _ask(self) -> None:
        me = threading.get_ident()
        while not self._gone.wait(self._pause_s):
            self._waiting[me] = time.monotonic()
            self.asked.append(ask(self._url))
            del self._waiting[me]


def ask(url: str) -> Asked:
    """One question, on a connection of its own."""
    at_s, began_s = time.time(), time.monotonic()
    status, said = None, ""
    try:
        reply = httpx.post(f"{url}/v1/ask", json={"question": "Is there a car now?"}, timeout=httpx.Timeout(30, read=HUNG_S))
        status, said = reply.status_code, _said(reply)
    except httpx.TransportError as error:
        said = type(error).__name__
    return Asked(at_s=at_s, took_s=time.monotonic() - began_s, status=status, said=said)


def _said(reply: httpx.Response) -> str:
    try:
        body = reply.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    error = body.get("error", {})
    return str(body.get("answer", "")) if reply.is_success else " ".join(filter(None, (error.get("type"), error.get("message"))))


class Ledger:
    """What the memory has acknowledged, as it was seen to be there."""

    def __init__(self, url: str, fingerprint: str, cameras: list[str]) -> None:
        self._store = CarrierStore(url, fingerprint)
        self._seen: dict[str, set[int]] = {camera: set() for camera in cameras}

    def newest_s(self) -> float:
        """The newest carrier of the camera that is furthest behind, in UNIX time."""
        return min(self._store.newest(camera) or 0 for camera in self._seen) / 1000

    def look(self) -> dict[str, list[int]]:
        """The times of all carriers by camera. Every one that was there at an earlier look still is."""
        now = {camera: self._store.times(camera) for camera in self._seen}
        for camera, times in now.items():
            assert not self._seen[camera] - set(times), f"{camera}: acknowledged carriers are gone"
            self._seen[camera] |= set(times)
        return now

    def whole(self) -> bool:
        """Whether every carrier that was ever seen can be read."""
        wanted = [CarrierKey(camera_id=camera, at_ms=at_ms) for camera, times in self._seen.items() for at_ms in sorted(times)]
        return all(self._store.get(wanted)) and not self._store.misses

    def close(self) -> None:
        self._store.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A system that is up, and its memory."""

    running: Running
    url: str
    ledger: Ledger
    own: OwnTime


W = TypeVar("W", bound=Watched)


@contextmanager
def watched(kind: type[W], folder: Path, **more: Any) -> Iterator[W]:
    """Four simulated cameras, every picture of them looked at; `more` is configuration. Some of each is in the memory already."""
    with OwnTime() as own, simulated_site(SEED) as served, PrivateRedis(folder / "redis") as server:
        cameras = {name: {"uri": uri, "still_s": 0} for name, uri in served["cameras"].items()}
        port = free_port(0)
        config, log = folder / "longwatch.yaml", folder / "log"
        config.write_text(json.dumps({"cameras": cameras, "port": port, "redis": server.url} | more))
        with Running(config, log) as running:
            url = f"http://127.0.0.1:{port}"
            up_s = until(lambda: running.ended is not None or ask(url).answered, UP_S)
            assert up_s < UP_S and running.ended is None, log.read_text()
            model = httpx.post(f"{url}/v1/ask", json={"question": "Is there a car now?"}, timeout=HUNG_S).json()["model"]
            ledger = Ledger(server.url, model, list(CAMERAS))
            assert until(lambda: all(len(times) >= 5 for times in ledger.look().values()), PATIENCE_S) < PATIENCE_S
            yield kind(running=running, url=url, ledger=ledger, own=own)
            ledger.close()
