"""What must be equal for one model to read another's carriers."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
import xxhash

from pipeline.core import Mode

UNTOLD = (
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "return_dict",
    "output_attentions",
    "id2label",
    "label2id",
)
METHODS: dict[Mode, str] = {"carriers": "videoscan-1", "training-free": "rekv-1"}  # what a frame sees of those before it
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything that shapes a carrier. Its fingerprint is part of every key and every envelope in the memory."""

    backbone: str  # see `identity`, and the adapter's digest where there is one
    dtype: str
    layers: int
    kv_heads: int
    head_dim: int
    hidden: int
    tokens_per_frame: int  # visual tokens that one carrier stands for
    rope_theta: float
    preprocessing: str  # height and width, mean and std of the pictures
    prompt: str  # digest of tokenizer and template
    positions: str = "frame-length"  # how far apart carriers stand: a frame's length, as in the paper's training, or one
    patches: int = 0  # visual tokens of a frame kept beside its carrier
    method: str = METHODS["carriers"]

    @property
    def fingerprint(self) -> str:
        """A short name that changes with any field."""
        told = {name: value for name, value in asdict(self).items() if (name, value) != ("patches", 0)}  # as before there were any
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def carrier_bytes(self) -> int:
        """Size of a carrier's keys and values in `dtype`, of its patches', and of its embedding, which numpy cannot hold in bfloat16:
        it takes float32.
        """
        embedding = self.hidden * (4 if self.dtype == "bfloat16" else WIDTHS[self.dtype])
        row = WIDTHS[self.dtype] * 2 * self.kv_heads * self.head_dim
        return embedding + self.layers * (row + self.patches * (row + 2))


def identity(net: Any) -> str:
    """Names a network of transformers' by its kind, its weights as they are loaded, and its configuration."""
    settings = json.dumps(_settings(net.config.to_dict()), sort_keys=True, default=str)
    return f"{net.config.model_type}-{_weights(net)}-{_digest(settings)}"


def described(
    net: Any,
    *,
    backbone: str,
    words: object,
    head_dim: int,
    tokens_per_frame: int,
    preprocessing: str,
    positions: str,
    patches: int,
    mode: Mode = "carriers",
) -> ModelSpec:
    """The spec of a network of transformers' with a `text_config`; `backbone` names it, `words` is all that shapes its prompts."""
    text = net.config.text_config
    rope = getattr(text, "rope_parameters", None) or {}
    return ModelSpec(
        backbone=backbone,
        dtype=str(net.dtype).removeprefix("torch."),
        layers=text.num_hidden_layers,
        kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        hidden=text.hidden_size,
        tokens_per_frame=tokens_per_frame,
        rope_theta=float(rope.get("rope_theta", getattr(text, "rope_theta", 10_000.0))),
        preprocessing=preprocessing,
        prompt=_digest(json.dumps(words)),
        positions=positions,
        patches=patches,
        method=METHODS[mode],
    )


def _weights(net: Any) -> str:
    """A digest of all weights; of names and shapes alone where there are none (on torch's meta device)."""
    told = xxhash.xxh3_128()
    for name, tensor in sorted(net.state_dict().items()):
        told.update(f"{name}{tuple(tensor.shape)}".encode())
        if not tensor.is_meta:
            told.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return told.hexdigest()[:16]


def _settings(config: dict[Any, Any]) -> dict[str, Any]:
    """A configuration without what says nothing of the arithmetic: names, versions, and how it is run."""
    kept = {k: v for k, v in config.items() if k not in UNTOLD and not str(k).startswith("_")}
    return {k: _settings(v) if isinstance(v, dict) else v for k, v in kept.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
