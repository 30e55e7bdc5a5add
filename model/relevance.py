"""Which of very many carriers may show what a question is about: the dot product of two short vectors, one each.

The carrier's vector is made once, at prefill, from its frame's visual tokens, which are there for the last time: their mean, and so the
carrier, knows less of what is small. The question's is made from the language model's reading of the question alone. Their product is
the logit of "it is to be seen there". `model.train_relevance` trains a model's head, after the model and without changing it.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import DynamicCache

from model.arrays import to_numpy
from model.backbone import Backbone
from model.context import causal
from pipeline.core import VECTOR, Carrier

FILE = "relevance.safetensors"
WITHIN = 256  # numbers between the layers of the carrier's side


class Head(Protocol):
    """What tells a model's carriers apart by what questions are about."""

    @property
    def digest(self) -> str:
        """Names it: vectors of another mean nothing to its questions."""

    def vectors(self, backbone: Backbone, tokens: Tensor, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
        """Of each carrier [carriers, VECTOR], made of a frame with these visual tokens [carriers, tokens, width]."""

    def sought(self, backbone: Backbone, question: str) -> NDArray[np.float32]:
        """What a question looks for [VECTOR]: its product with a carrier's vector is the logit of being there."""


class Relevance(nn.Module):
    """Two maps into one small space, of a question and of a visual token; neither is linear, as a colour goes with a kind.

    Of a frame's tokens the largest of each number counts, as what is asked about may stand anywhere, and be small.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self._hidden = hidden
        self.token = _map(hidden, WITHIN, WITHIN, VECTOR - 1)
        self.question = _map(2 * hidden, WITHIN, VECTOR)

    @classmethod
    def of(cls, backbone: Backbone) -> "Relevance":
        """An untrained head of the right size."""
        return cls(backbone.hidden)

    @cached_property
    def digest(self) -> str:
        """Names the head by its weights, which do not change once it serves: vectors of another mean nothing to its questions."""
        told = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            told.update(name.encode() + tensor.cpu().numpy().tobytes())
        return told.hexdigest()[:16]

    def vectors(self, backbone: Backbone, tokens: Tensor, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
        """See `Head`."""
        return to_numpy(self.frames(tokens))

    def sought(self, backbone: Backbone, question: str) -> NDArray[np.float32]:
        """See `Head`."""
        return to_numpy(self.questions(read(backbone, question)[None])[0])

    def frames(self, tokens: Tensor) -> Tensor:
        """Visual tokens [n, tokens, width] to vectors [n, VECTOR]; the last entry is 1 and takes the question's bias."""
        own = tokens[..., : self._hidden].float()  # what goes to deeper layers stands behind it
        return nn.functional.pad(self.token(own).amax(1), (0, 1), value=1.0)

    def questions(self, states: Tensor) -> Tensor:
        """What `read` gave [n, 2 * hidden] to vectors [n, VECTOR]."""
        vectors: Tensor = self.question(states)
        return vectors


def _map(*widths: int) -> nn.Sequential:
    """Layers between numbers of such widths, over what has mean 0 and variance 1."""
    layers: list[nn.Module] = [nn.LayerNorm(widths[0], elementwise_affine=False)]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


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
