"""How a figure is taken and kept: timed properly, printed and written as soon as it is there."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from bench.report import console, machine, show
from model.backbone import Backbone
from model.fast import sees_past_unmasked
from pipeline.core import LongwatchError


class NotHere(LongwatchError):
    """A figure that this machine cannot give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large everything is asked for."""

    batches: tuple[int, ...]  # cameras in one batch; the first is the most important
    lives: tuple[int, ...]  # carriers in a full memory
    compared: int  # cameras where the ways to run are compared
    carriers: tuple[int, ...]  # that a question looks at; the first is the most important
    questions: tuple[int, ...]  # at once
    tokens: int  # of an answer
    watched: tuple[int, int, int]  # cameras, rules, carriers
    dense: int  # frames that the dense baseline sees again
    retrieved: int  # full frames that the retrieving baseline reads
    frames: tuple[int, int]  # where peak memory is read
    square: int  # side of the matrices of the ceiling
    copied: int  # bytes
    repeats: int


FULL = Sizes(
    batches=(64, 8, 1, 32, 128),
    lives=(128, 512),
    compared=32,
    carriers=(512, 64, 2048),
    questions=(16, 1, 64),
    tokens=32,
    watched=(100, 10, 64),
    dense=64,
    retrieved=8,
    frames=(100, 2000),
    square=8192,
    copied=4 << 30,
    repeats=9,
)
QUICK = Sizes(
    batches=(8, 1),
    lives=(128,),
    compared=8,
    carriers=(512,),
    questions=(16,),
    tokens=16,
    watched=(32, 10, 64),
    dense=64,
    retrieved=8,
    frames=(100, 300),
    square=8192,
    copied=1 << 30,
    repeats=3,
)
TINY = Sizes(
    batches=(2, 1),
    lives=(3, 6),
    compared=2,
    carriers=(4, 2),
    questions=(2, 1),
    tokens=4,
    watched=(3, 2, 2),
    dense=3,
    retrieved=2,
    frames=(4, 8),
    square=64,
    copied=1 << 16,
    repeats=2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: the median of repeated measurements with the lowest and the highest."""

    what: str
    setting: str
    unit: str
    median: float
    low: float
    high: float
    also: dict[str, float] = field(default_factory=dict)  # what follows from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A figure that could not be taken, and why."""

    what: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Bench:
    """What the measurements share.

    `graphs` and `fastest_ms`: the fastest way to run that has worked so far; `rounding`: how far its rounding alone takes a carrier.
    """

    backbone: Backbone
    sizes: Sizes
    shape: str
    matmul: float = 0.0  # measured ceiling, FLOP/s
    graphs: bool = False
    fastest_ms: float = float("inf")
    rounding: float | None = None

    @property
    def fused(self) -> bool:
        """Whether attention is fused, so that a pass without a mask means what it says."""
        return sees_past_unmasked(self.backbone)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.backbone.device

    def timed(self, call: Callable[[], object], *, repeats: int = 0, warmup: int = 3) -> list[float]:
        """Milliseconds of each of several calls, the device's work included. The warm-up loads, compiles and records."""
        for _ in range(warmup):
            call()
        taken = []
        for _ in range(repeats or self.sizes.repeats):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            taken.append(1000 * (time.perf_counter() - began))
        return taken

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the host, where the device can read it by itself."""
        host = tensor.cpu()
        return host.pin_memory() if self.device.type == "cuda" else host


def row(what: str, setting: str, unit: str, values: Sequence[float], **also: float) -> Row:
    """Median and spread of the values."""
    return Row(what=what, setting=setting, unit=unit, median=statistics.median(values), low=min(values), high=max(values), also=also)


@contextmanager
def attention(backbone: Backbone, name: str) -> Iterator[None]:
    """Another way to attend, for a while."""
    parts = {"text_config": backbone.config, "vision_config": backbone.vision}
    before = {part: config._attn_implementation for part, config in parts.items()}
    backbone.net.set_attn_implementation(dict.fromkeys(parts, name))
    try:
        yield
    finally:
        backbone.net.set_attn_implementation(before)


Measurement = tuple[str, Callable[[Bench], Iterator[Row]]]


class Report:
    """All figures so far; after each the file is whole."""

    def __init__(self, bench: Bench, file: Path | None, seconds: float) -> None:
        self._bench = bench
        self._file = file
        self._began = time.monotonic()
        self._seconds = seconds
        self.rows: list[Row] = []
        self.missing: list[Missing] = []
        self.failed = False

    def take(self, what: str, measure: Callable[[Bench], Iterator[Row]]) -> None:
        """Measure one thing. What does not fit into the memory or the time is said; so is what fails, and the rest goes on."""
        if self.spent_s > self._seconds:
            self._miss(what, f"out of time after {self.spent_s:.0f} s")
            return
        try:
            for each in measure(self._bench):
                self.rows.append(each)
                self._say(f"{self.spent_s:4.0f} s  {each.what}, {each.setting}: {each.median:.4g} {each.unit}")
        except torch.cuda.OutOfMemoryError:
            self._miss(what, "does not fit into the device's memory")
        except NotHere as error:
            self._miss(what, str(error))
        except RuntimeError as error:  # torch's own, also those of its compiler and of the device
            self.failed = True
            self._miss(what, f"failed: {str(error).strip().splitlines()[0]}" if str(error).strip() else f"failed: {error!r}")
        gc.collect()
        if self._bench.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def spent_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def print(self) -> None:
        """The table, what belongs together in one place."""
        order = list(dict.fromkeys(each.what for each in self.rows))
        rows = [
            (
                r.what,
                r.setting,
                f"{r.median:.4g}",
                f"{r.low:.4g} - {r.high:.4g}",
                r.unit,
                ", ".join(f"{k} {v:.3g}" for k, v in r.also.items()),
            )
            for r in sorted(self.rows, key=lambda r: order.index(r.what))
        ]
        notes = [f"not measured: {each.what}: {each.reason}" for each in self.missing]
        columns = ("what", "setting", "median", "lowest - highest", "unit", "that is")
        show(f"Model of shape {self._bench.shape}, {self._bench.backbone.dtype}, random weights", columns, rows, notes)

    def _miss(self, what: str, reason: str) -> None:
        self.missing.append(Missing(what=what, reason=reason))
        self._say(f"{self.spent_s:4.0f} s  {what}: {reason}")

    def _say(self, line: str) -> None:
        console.print(line, soft_wrap=True)
        if self._file:
            figures = {"rows": [asdict(r) for r in self.rows], "missing": [asdict(m) for m in self.missing]}
            whole = machine() | {"shape": self._bench.shape, "seconds": round(self.spent_s)} | figures
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps(whole, indent=1) + "\n")
            part.replace(self._file)
