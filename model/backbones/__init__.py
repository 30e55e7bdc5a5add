"""Families of vision-language models, by transformers' `model_type`: one small file each, imported when a model asks for it."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor

from model.habits import Habits
from pipeline.core import LongwatchError

FAMILIES = {
    "llava_onevision": "model.backbones.llava_onevision.LlavaOnevision",
    "qwen2_5_vl": "model.backbones.qwen2_5_vl.Qwen25VL",
    "qwen3_vl": "model.backbones.qwen3_vl.Qwen3VL",
}


class UnknownBackbone(LongwatchError):
    """A model of a family that VideoScan does not know."""


class Family(Protocol):
    """What VideoScan must be told of a family; all else is the same for every backbone.

    A frame becomes `grid` visual tokens of `width` numbers: as many as the language model's input has, and as many again for
    every layer behind which the family adds further visual features (deepstack). None of these methods changes the network.
    """

    grid: tuple[int, int]  # visual tokens of a frame, down and across
    size: tuple[int, int]  # height and width in pixels that pictures are squashed to
    deep: int  # layers behind which further visual features are added
    tower: str  # the name of the vision tower's layers in the network

    def __init__(self, net: Any, habits: Habits) -> None: ...

    def look(self, pixels: Tensor) -> Tensor:
        """The vision tower: [frames, 3, height, width] to features [frames, patches, any width]."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """What lies between tower and language model: features to visual tokens [frames, tokens, width]."""
        ...

    def offsets(self) -> Tensor:
        """Positions of a frame's visual tokens from where the frame begins: [tokens], or [3, 1, tokens] with three axes."""
        ...

    def written(self, tokenizer: Any, seconds: Sequence[float]) -> str:
        """The text that stands for whole frames taken at these times, as in pre-training: a video token for each visual one."""
        ...

    def film(self, tokens: Tensor) -> Tensor:
        """Visual tokens [frames, tokens, width] as those [n, width] that take the places of the video tokens written."""
        ...

    def places(self, ids: Tensor, seconds: Sequence[float]) -> Tensor:
        """Positions [1, n] or [3, 1, n] of a prompt [n] with whole frames in it, as in pre-training."""
        ...


def family(model_type: str) -> type[Family]:
    """The family of a transformers `model_type`. Raises UnknownBackbone, naming those that are known."""
    if model_type not in FAMILIES:
        raise UnknownBackbone(f"models of type {model_type!r} are not supported, only {', '.join(FAMILIES)}")
    module, _, name = FAMILIES[model_type].rpartition(".")
    found: type[Family] = getattr(import_module(module), name)
    return found
