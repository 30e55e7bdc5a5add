"""Percentiles, slopes, and the table that each part gives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What one part found: rows under columns, what has to be known to read them, and more for the JSON."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[object]]
    notes: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it; what could not be measured is null."""
        rows = [{name: _plain(cell) for name, cell in zip(self.columns, row, strict=True)} for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)} | self.more


def _plain(cell: object) -> object:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of them do not exceed; not a number where there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def slope_an_hour(at_s: Sequence[float], values: Sequence[float]) -> float:
    """How much the straight line of least squares through the values rises in an hour; not a number for fewer than two times."""
    x, y = np.asarray(at_s, np.float64), np.asarray(values, np.float64)
    if len(x) < 2 or np.ptp(x) == 0:
        return math.nan
    away = x - x.mean()
    return float(3600 * (away @ (y - y.mean())) / (away @ away))


def ms(seconds: float) -> float:
    """Milliseconds as tables show them: whole ones from 100 on, else to a tenth."""
    return round(1000 * seconds) if seconds >= 0.1 else round(1000 * seconds, 1)
