"""Where a training stands, in one file that is replaced whole: adapters, optimiser, and the place in the recipe and the data."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.adapter import TOLD
from pipeline.core import LongwatchError

FILE = "training.safetensors"


class CannotResume(LongwatchError):
    """A training that cannot be gone on with."""


class FolderTaken(LongwatchError):
    """A folder that holds a training already, which would be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a training does. Rates, adapters and dropout are by default those of the paper's public code."""

    data: tuple[str, ...] = ()  # the sources of clips, as they were named
    frames: int = 32  # most of a clip
    fps: float = 1.0  # of a video
    patches: str = ""  # kept beside each carrier: a number, or all; nothing: as the model has it
    stages: tuple[int, ...] = (1, 2)
    steps: int = 1000  # of the optimiser, in each stage
    batch: int = 8  # clips a step, in each worker
    rate: float | None = None  # of learning, at its highest; None: each stage's own
    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The place in recipe and data. All that is random follows from the seed and this place."""

    stage: int = 0  # index into the recipe's stages; behind the last when all is done
    step: int = 0  # steps of the stage that are done
    taken: tuple[int, ...] = ()  # clips each worker has taken
    skipped: int = 0  # clips that could not be shown


def save(folder: Path, recipe: Recipe, base: str, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write it all, or leave what was there."""
    told = {"recipe": asdict(recipe), "base": base, "progress": asdict(progress)}
    unfinished = folder / f"{FILE}.part"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, unfinished, metadata={TOLD: json.dumps(told)})
    unfinished.rename(folder / FILE)


def check_free(folder: Path) -> None:
    """Raises FolderTaken."""
    if (folder / FILE).exists():
        raise FolderTaken(f"{folder} holds a training already: --resume goes on with it; or give another folder")


def load(folder: Path, recipe: Recipe, base: str, workers: int) -> tuple[Progress, dict[str, Tensor]]:
    """Raises CannotResume, also if the training was another one."""
    file = folder / FILE
    if not file.is_file():
        raise CannotResume(f"{file}: there is no training to go on with; leave out --resume to begin one")
    try:
        with safe_open(file, "pt") as opened:
            told = json.loads(opened.metadata()[TOLD])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as error:
        raise CannotResume(f"{file}: is damaged: {error}") from None
    was, progress = told["recipe"], Progress(**told["progress"])
    now = json.loads(json.dumps(asdict(recipe))) | {"model": base, "workers": workers}
    was |= {"model": told["base"], "workers": len(progress.taken)}
    if changed := [f"{key} was {was[key]}, not {now[key]}" for key in now if now[key] != was[key]]:
        raise CannotResume(f"{file}: that was another training: {'; '.join(changed)}; give the same settings, or another folder")
    return replace(progress, taken=tuple(progress.taken)), tensors


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers, by names."""
    remembered = optimiser.state_dict()["state"]
    return {f"optimiser.{i}.{key}": tensor for i, each in remembered.items() for key, tensor in each.items()}


def recall(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser back what it remembered."""
    remembered: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, i, key = name.split(".")
            remembered.setdefault(int(i), {})[key] = tensor
    optimiser.load_state_dict({"state": remembered, "param_groups": optimiser.state_dict()["param_groups"]})
