"""A system under measurement: `longwatch up` as people run it, or the same work in one process, over a Redis and cameras of our own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.system.site import cameras
from pipeline.core import LongwatchError
from storage.redis_server import PrivateRedis

NAMES = {  # of a process, by how its command line begins
    "ray::IngestActor": "ingest",
    "ray::PrefillActor": "prefill",
    "ray::RulesActor": "rules",
    "ray::ServeReplica:decode:": "decode",
    "ray::ServeReplica:api:": "api",
    "ray::ProxyActor": "proxy",
    "ray::ServeController": "controller",
}
READY_S = 600.0
TRIES = 5
GONE = suppress(psutil.NoSuchProcess, ProcessLookupError)  # processes come and go
NOTIFY = "notify-keyspace-events E$"  # Redis tells of each value that is set: see bench.system.arrivals


class NotRunning(LongwatchError):
    """The system to be measured did not start, or ended."""


@contextmanager
def redis() -> Iterator[PrivateRedis]:
    """An empty one."""
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder, PrivateRedis(Path(folder), more=[NOTIFY]) as server:
        yield server


class System:
    """The processes of one system, the cameras and Redis included; all of them end with its context."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], others: Mapping[str, int]) -> None:
        self.url, self._process, self._others = url, process, others

    def processes(self) -> dict[int, str]:
        """Those that run now, by name; what Ray runs for itself is "ray"."""
        found = {pid: name for name, pid in self._others.items()}
        try:
            for each in (main := psutil.Process(self._process.pid)).children(recursive=True):
                found[each.pid] = _name(each)
        except psutil.NoSuchProcess:
            raise NotRunning(f"the system has ended with {self._process.poll()}") from None
        return found | {main.pid: "longwatch up" if len(found) > len(self._others) else "one process"}

    def cpu_s(self) -> dict[str, float]:
        """Processor time that each has taken so far; processes of one name together."""
        taken: dict[str, float] = {}
        for pid, name in self.processes().items():
            with GONE:
                times = psutil.Process(pid).cpu_times()
                taken[name] = taken.get(name, 0.0) + times.user + times.system
        return taken

    def resident_mb(self) -> dict[str, float]:
        """Resident memory of each process."""
        found = {}
        for pid, name in self.processes().items():
            with GONE:
                found[f"{name} {pid}"] = psutil.Process(pid).memory_info().rss / 2**20
        return found

    @contextmanager
    def pinned(self, own: str) -> Iterator[str]:
        """The processes of that name have the first core, all others the rest, this one and what it starts included. Says so."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise NotRunning("with one core there are no separate ones")
        for pid, name in self.processes().items():
            _place(pid, cores[:1] if name == own else cores[1:])
        _place(os.getpid(), cores[1:])
        try:
            yield f"{own} on core {cores[0]}, all else on {', '.join(map(str, cores[1:]))}"
        finally:
            _place(os.getpid(), cores)

    def metrics(self) -> dict[str, float]:
        """What /metrics tells, summed over labels; by sample name. Raises NotRunning when some plane does not tell, again and again."""
        for _ in range(TRIES):
            told: dict[str, float] = {}
            silent = []
            for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=30).raise_for_status().text):
                for sample in family.samples:
                    told[sample.name] = told.get(sample.name, 0.0) + sample.value
                    silent += [sample.labels["plane"]] if sample.name == "longwatch_up" and not sample.value else []
            if not silent:
                return told
        raise NotRunning(f"no metrics from {', '.join(silent)}, asked {TRIES} times")


def _place(pid: int, cores: Collection[int]) -> None:
    with GONE:
        for thread in psutil.Process(pid).threads():  # each has a place of its own; those to come inherit it
            os.sched_setaffinity(thread.id, cores)


def _name(process: psutil.Process) -> str:
    with GONE:
        words = " ".join(process.cmdline())
        return next((name for title, name in NAMES.items() if words.startswith(title)), "ray")
    return "ray"


@contextmanager
def running(uris: Mapping[str, str], others: Mapping[str, int], redis_url: str, *, fps: float, planes: bool = True) -> Iterator[System]:
    """A system that watches these cameras, ready to be asked; apart in planes, or one process. Every picture is prefilled, still or not."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port, file, log = _free_port(), Path(folder) / "longwatch.yaml", Path(folder) / "log"
        watched = {name: {"uri": uri, "fps": fps, "still_s": 0} for name, uri in uris.items()}
        file.write_text(yaml.safe_dump({"cameras": watched, "redis": redis_url, "port": port}))
        module = ["actors.cli", "up", "-c"] if planes else ["bench.system.one_process"]
        with log.open("wb") as out:
            command = [sys.executable, "-m", *module, str(file)]
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        system = System(f"http://127.0.0.1:{port}", process, others)
        try:
            _wait_until_ready(system.url, process, log)
            yield system
        finally:
            end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    with httpx.Client(base_url=url, timeout=5) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get("/v1/health/ready").is_success:
                    return
            time.sleep(0.3)
    raise NotRunning(f"the system did not start; it said last: {log.read_text(errors='replace')[-800:]}")


def end(process: subprocess.Popen[bytes], patience_s: float = 30) -> None:
    """As Ctrl-C would; what is left of its session after that is killed."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    for pid in _session(process.pid):
        with GONE:
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _session(leader: int) -> Collection[int]:
    found = []
    for pid in psutil.pids():
        with GONE:
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


@contextmanager
def watching(count: int, *, fps: float = 1.0, planes: bool = True) -> Iterator[tuple[System, str]]:
    """A system that watches so many cameras over RTSP from now on, and its Redis."""
    with redis() as memory, cameras(count) as (uris, site):
        others = {"cameras": site, "redis": memory.pid}
        with running(uris, others, memory.url, fps=fps, planes=planes) as system:
            yield system, memory.url
