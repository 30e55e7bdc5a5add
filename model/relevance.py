"""Which of very many carriers may show what a question is about: the dot product of two short vectors, one each.

The carrier's vector is made once, at prefill, from its keys and values before rotary embedding, so it knows no position; the
question's from the language model's reading of the question alone. Their product is the logit of "it is to be seen there".
`model.train_relevance` trains a model's head, after the model and without changing it.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import DynamicCache

from model.arrays import to_numpy, to_tensor
from model.backbone import Backbone
from model.context import causal
from pipeline.core import VECTOR, Carrier

FILE = "relevance.safetensors"
WITHIN = 512  # numbers between the two layers of the carrier's side


class Head(Protocol):
    """What tells a model's carriers apart by what questions are about."""

    @property
    def digest(self) -> str:
        """Names it: vectors of another mean nothing to its questions."""

    def vectors(self, backbone: Backbone, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
        """Of each carrier [carriers, VECTOR]."""

    def sought(self, backbone: Backbone, question: str) -> NDArray[np.float32]:
        """What a question looks for [VECTOR]: its product with a carrier's vector is the logit of being there."""


class Relevance(nn.Module):
    """Two maps into one small space: a question's is linear; a carrier's is not, as it must tell which colour goes with which kind."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        width = layers * 2 * kv_heads * head_dim
        self.carrier = nn.Sequential(
            nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, WITHIN), nn.GELU(), nn.Linear(WITHIN, VECTOR - 1)
        )
        self.question = nn.Sequential(nn.LayerNorm(2 * hidden, elementwise_affine=False), nn.Linear(2 * hidden, VECTOR))

    @classmethod
    def of(cls, backbone: Backbone) -> "Relevance":
        """An untrained head of the right size."""
        spec = backbone.spec
        return cls(spec.layers, spec.kv_heads, spec.head_dim, spec.hidden)

    @cached_property
    def digest(self) -> str:
        """Names the head by its weights, which do not change once it serves: vectors of another mean nothing to its questions."""
        told = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            told.update(name.encode() + tensor.cpu().numpy().tobytes())
        return told.hexdigest()[:16]

    def vectors(self, backbone: Backbone, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
        """See `Head`."""
        kv = to_tensor(np.stack([carrier.kv for carrier in carriers]), backbone.device, torch.float32)
        return to_numpy(self.carriers(kv))

    def sought(self, backbone: Backbone, question: str) -> NDArray[np.float32]:
        """See `Head`."""
        return to_numpy(self.questions(read(backbone, question)[None])[0])

    def carriers(self, kv: Tensor) -> Tensor:
        """kv [n, layers, 2, kv_heads, head_dim] to vectors [n, VECTOR]; the last entry is 1 and takes the question's bias."""
        return nn.functional.pad(self.carrier(kv.flatten(1).float()), (0, 1), value=1.0)

    def questions(self, states: Tensor) -> Tensor:
        """What `read` gave [n, 2 * hidden] to vectors [n, VECTOR]."""
        vectors: Tensor = self.question(states)
        return vectors


@torch.inference_mode()
def read(backbone: Backbone, question: str) -> Tensor:
    """A question as the language model reads it with nothing to look at [2 * hidden]: its last token's state, and the mean of all."""
    tokens = torch.tensor([[*backbone.prefix, *backbone.suffix(question)]], device=backbone.device)
    length = tokens.shape[1]
    positions = torch.arange(length, device=backbone.device)[None]
    states: Tensor = backbone.run(backbone.embed(tokens), positions, DynamicCache(), causal(backbone, 1, length)).last_hidden_state[0]
    return torch.cat((states[-1], states[len(backbone.prefix) :].mean(0))).float()


def load(backbone: Backbone, folder: str | Path) -> Relevance | None:
    """A model's head, if it has one. Raises RuntimeError for one of another model's size."""
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    head = Relevance.of(backbone)
    load_model(head, str(file))
    return head.eval().requires_grad_(False).to(backbone.device)
