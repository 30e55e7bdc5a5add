"""How a model was trained to be used."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

Spacing = Literal["frame-length", "unit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """A `longwatch.json` beside a model's weights, or these defaults of the paper. Raises ValueError on a spacing it does not know."""

    live: int = 64  # carriers in a camera's live memory (M)
    budget: int = 128  # carriers that an answer looks at
    evidence_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) whose attention is the evidence; none: all
    spacing: Spacing = "frame-length"  # how far apart carriers stand: model.context
    grid: tuple[int, int] = (10, 18)  # visual tokens of a frame, down and across, where a model takes pictures of any size

    def __post_init__(self) -> None:
        if self.spacing not in get_args(Spacing):
            raise ValueError(f"spacing {self.spacing!r}: use one of {', '.join(get_args(Spacing))}")

    @classmethod
    def load(cls, folder: Path) -> "Habits":
        """Read a model folder's habits. Raises TypeError on keys it does not know."""
        file = folder / "longwatch.json"
        if not file.is_file():
            return cls()
        told = json.loads(file.read_text())
        pairs = {"evidence_heads": tuple(map(tuple, told.get("evidence_heads", ())))}
        if "grid" in told:
            pairs["grid"] = tuple(told["grid"])
        return cls(**told | pairs)

    def save(self, folder: Path) -> None:
        """Write them beside the weights."""
        (folder / "longwatch.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
