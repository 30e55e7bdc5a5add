"""How long something took of a machine's time that was ours: what the product promises is promised on a machine of one's own."""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import psutil

STEP_S = 0.5
LEAST = 0.05  # of a machine: however busy it is, the clock goes on
WORTH = 1.5  # what is left of a shared machine is worth less: caches are cold, and turns are waited for
WAITED = 0  # stands for the children that this process has waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Seconds of processor time by now."""

    at_s: float  # UNIX time
    busy_s: float  # of all processors, with what others took of the hardware
    ours_s: Mapping[int, float]  # by process


def speed(before: Used, after: Used, processors: int) -> float:
    """How fast the machine was for us, between two looks; 1 where others took no part of it."""
    ours_s = sum(max(0.0, used_s - before.ours_s.get(pid, 0.0)) for pid, used_s in after.ours_s.items())
    others_s = max(0.0, after.busy_s - before.busy_s - ours_s)
    return max(LEAST, 1 - others_s / (processors * (after.at_s - before.at_s))) ** WORTH


class OwnTime:
    """A clock that goes slower while programs that this process did not start want the processors, or a machine beside this one does."""

    def __init__(self) -> None:
        self._sessions: set[int] = set()  # those that our children began: what they started is ours, whoever is its parent now
        self._used = self._look()
        self._at_s, self._own_s = [self._used.at_s], [0.0]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="own time", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, begin_s: float, end_s: float) -> float:
        """Seconds of our own from one UNIX time to another, as far as is known by now."""
        begin, end = np.interp([begin_s, end_s], self._at_s[: len(self._own_s)], self._own_s)
        return float(end - begin) + max(0.0, end_s - max(begin_s, self._at_s[-1]))

    def _run(self) -> None:
        while not self._ended.wait(STEP_S):
            used = self._look()
            passed_s = used.at_s - self._used.at_s
            if passed_s > 0:
                own_s = self._own_s[-1] + passed_s * speed(self._used, used, os.cpu_count() or 1)
                self._at_s, self._own_s, self._used = [*self._at_s, used.at_s], [*self._own_s, own_s], used

    def _look(self) -> Used:
        now = psutil.cpu_times()
        busy_s = sum(now) - now.idle - getattr(now, "iowait", 0.0) - getattr(now, "guest", 0.0) - getattr(now, "guest_nice", 0.0)
        me = psutil.Process()
        own = me.cpu_times()
        ours_s = {WAITED: own.children_user + own.children_system, me.pid: own.user + own.system}
        for pid in self._pids(me):
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                ours_s[pid] = times.user + times.system
        return Used(at_s=time.time(), busy_s=busy_s, ours_s=ours_s)

    def _pids(self, me: psutil.Process) -> set[int]:
        children = {child.pid for child in me.children(recursive=True)}
        sessions = {pid: _session(pid) for pid in psutil.pids()}
        self._sessions |= {sessions.get(pid, 0) for pid in children} - {0, os.getsid(0)}
        return children | {pid for pid, session in sessions.items() if session in self._sessions}


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return 0
