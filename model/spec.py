"""What must be equal for one model to read another's carriers."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything that shapes a carrier. Its fingerprint is part of every key and every envelope in the memory."""

    backbone: str  # architecture and a digest of its weights
    dtype: str
    layers: int
    kv_heads: int
    head_dim: int
    hidden: int
    tokens_per_frame: int  # visual tokens that one carrier stands for
    rope_theta: float
    preprocessing: str  # side, mean and std of the pictures
    prompt: str  # digest of tokenizer and template
    positions: str = "frame-length"  # carriers lie a frame's length apart, as in training
    method: str = "videoscan-1"

    @property
    def fingerprint(self) -> str:
        """A short name that changes with any field."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def carrier_bytes(self) -> int:
        """Size of a carrier's embedding and keys and values in `dtype`."""
        width = {"float32": 4, "float16": 2}[self.dtype]
        return width * (self.hidden + self.layers * 2 * self.kv_heads * self.head_dim)
