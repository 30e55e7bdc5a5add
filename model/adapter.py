"""Adapters: what `longwatch train` adds to a backbone's weights (LoRA, arXiv 2106.09685), kept apart from them in peft's format."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import nn

from model.spec import identity
from pipeline.core import LongwatchError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
TOLD = "longwatch"  # one key for all that a file is told: with several, the same adapter would be written in other bytes each time


class BadAdapter(LongwatchError):
    """A folder that is no adapter of `longwatch train`, or is one of another backbone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A folder with an adapter. It knows which backbone it was trained on, and at what precision."""

    folder: Path
    name: str  # of the backbone, as it was loaded for training
    base: str  # its `model.spec.identity`
    dtype: torch.dtype  # of the backbone's weights as the identity tells them

    @classmethod
    def open(cls, folder: Path) -> "Adapter":
        """Raises BadAdapter."""
        if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
            raise BadAdapter(f"{folder}: is no adapter, it lacks {' and '.join(missing)}; give a folder that `longwatch train` wrote")
        try:
            with safe_open(folder / WEIGHTS, "pt") as file:
                told = (file.metadata() or {}).get(TOLD)
        except SafetensorError as error:
            raise BadAdapter(f"{folder / WEIGHTS}: is damaged: {error}") from None
        if told is None:
            raise BadAdapter(f"{folder}: does not say which backbone it belongs to; `longwatch train` did not make it")
        kept = json.loads(told)
        return cls(folder=folder, name=kept["name"], base=kept["base"], dtype=getattr(torch, kept["dtype"]))

    def merge(self, net: Any, dtype: torch.dtype) -> str:
        """Add the adapter to a network loaded in `self.dtype`, and turn it to `dtype`. Returns the identity of what came out.

        That is the backbone's and the file's, not that of the sums, which may round otherwise on another machine. Raises BadAdapter.
        """
        from peft import PeftModel  # takes seconds

        if (found := identity(net)) != self.base:
            raise BadAdapter(f"{self.folder}: was trained on {self.name} ({self.base}), this is {found}: use that model")
        _turn(net, torch.promote_types(self.dtype, dtype))
        PeftModel.from_pretrained(net, self.folder).merge_and_unload()
        _turn(net, dtype)
        return f"{found}+{xxhash.xxh3_128((self.folder / WEIGHTS).read_bytes()).hexdigest()[:16]}"


def _turn(net: nn.Module, dtype: torch.dtype) -> None:
    """Another precision for the weights alone: rotary frequencies, which are buffers, stay in float32."""
    for weights in net.parameters():
        weights.data = weights.data.to(dtype)


def attach(net: Any, parts: Sequence[str], *, rank: int, alpha: int, dropout: float) -> Any:
    """Put fresh, trainable adapters, in float32, at every linear map below the modules named; all else is frozen. In place.

    Returns peft's view of the network, for `save`.
    """
    from peft import LoraConfig, get_peft_model

    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear) and name.startswith(tuple(parts))]
    return get_peft_model(net, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=linear))


def save(adapted: Any, folder: Path, *, base: str, dtype: torch.dtype) -> None:
    """Write an adapter of the backbone with identity `base`, in peft's format. What was there is replaced whole."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = adapted.peft_config["default"]
    told = {"name": adapted.config.name_or_path, "base": base, "dtype": str(dtype).removeprefix("torch."), "alpha": config.lora_alpha}
    tensors = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()}
    unfinished = folder / f"{WEIGHTS}.part"
    save_file(tensors, unfinished, metadata={TOLD: json.dumps(told)})
    config.save_pretrained(folder)
    unfinished.rename(folder / WEIGHTS)
