"""How a model is to be used: as it was taught, or, never taught, as `model.training_free` says."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.core import LivePolicy, LongwatchError, Mode

Spacing = Literal["frame-length", "unit"]


class BadHabits(LongwatchError):
    """A `longwatch.json` that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """A `longwatch.json` beside a model's weights, or these defaults of the paper.

    Raises ValueError on a mode, a spacing, a policy or a number of patches that cannot be.
    """

    mode: Mode = "carriers"  # whether carriers are read, or only the patches beside them
    live: int = 64  # carriers in a camera's live memory (M)
    live_policy: LivePolicy = "paper"  # which of them goes when there are too many: model.memory
    budget: int = 128  # carriers that an answer looks at
    recent: int = 1  # the newest of each camera, which are always among them
    evidence_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) whose attention is the evidence; none: all
    spacing: Spacing = "frame-length"  # how far apart carriers stand: model.context
    patches: int | Literal["all"] = 0  # visual tokens of a frame kept beside its carrier: model.patches
    grid: tuple[int, int] = (10, 18)  # visual tokens of a frame, down and across, where a model takes pictures of any size

    def __post_init__(self) -> None:
        for name, known in (("mode", get_args(Mode)), ("spacing", get_args(Spacing)), ("live_policy", get_args(LivePolicy))):
            if (told := getattr(self, name)) not in known:
                raise ValueError(f"{name} {told!r}: use one of {', '.join(known)}")
        if self.patches != "all" and not (type(self.patches) is int and self.patches >= 0):
            raise ValueError(f"patches {self.patches!r}: use a number, 0 for none, or all")
        if self.mode == "training-free" and not self.patches:
            raise ValueError("patches 0: in the training-free mode nothing else is read; use a number above 0, or all")

    @classmethod
    def load(cls, folder: Path) -> "Habits | None":
        """Read the habits in a model's or an adapter's folder; None where nobody taught any. Raises BadHabits."""
        file = folder / "longwatch.json"
        if not file.is_file():
            return None
        try:
            told = json.loads(file.read_text())
            pairs = {"evidence_heads": tuple(map(tuple, told.get("evidence_heads", ())))}
            if "grid" in told:
                pairs["grid"] = tuple(told["grid"])
            return cls(**told | pairs)
        except (TypeError, ValueError, AttributeError) as error:  # not JSON, not a map, keys that are not known, values that cannot be
            raise BadHabits(f"{file}: {error}") from None

    def save(self, folder: Path) -> None:
        """Write them beside the weights."""
        (folder / "longwatch.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
