"""Which of very many carriers may show what a question is about: the dot product of two short vectors, one each.

The carrier's vector is made once, at prefill, from what the vision tower says of each patch of its frame, which is there for the last
time: the carrier, a mean, knows less of what is small. It says how surely any one patch shows each of a number of things. The question's is
made from the language model's reading of the question alone. Their product is the logit of "it is to be seen there".
`model.train_relevance` trains a model's head, after the model and without changing it.
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
WITHIN = 256  # numbers between the layers of a question
AROUND, HEADS = 128, 4  # numbers of a patch while it is compared with the others of its frame, and the ways to compare
CLASSES = VECTOR  # what a patch may show; the last of them is nothing
FAINT = 1e-6  # no patch is surer than this short of 0 or 1


class Head(Protocol):
    """What tells a model's carriers apart by what questions are about."""

    @property
    def digest(self) -> str:
        """Names it: vectors of another mean nothing to its questions."""

    def vectors(self, backbone: Backbone, features: Tensor, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
        """Of each carrier [carriers, VECTOR], made of a frame with these features [carriers, patches, any width]."""

    def sought(self, backbone: Backbone, question: str) -> NDArray[np.float32]:
        """What a question looks for [VECTOR]: its product with a carrier's vector is the logit of being there."""


class Relevance(nn.Module):
    """Two maps into one small space, of a question and of a patch; neither is linear, as a colour goes with a kind.

    A patch is read with the others of its frame: where one thing stands before another, no patch alone says whose its colour is.
    """

    groups: Tensor  # [VECTOR - 1, CLASSES] which classes each of a vector's numbers is about, 1 or 0

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inward = _map(width, AROUND)
        self.around = nn.TransformerEncoderLayer(AROUND, HEADS, 2 * AROUND, 0.0, "gelu", batch_first=True, norm_first=True)
        self.patch = _map(AROUND, AROUND, CLASSES)
        self.question = _map(2 * hidden, WITHIN, VECTOR)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("groups", torch.eye(VECTOR - 1, CLASSES))

    @classmethod
    def of(cls, backbone: Backbone) -> "Relevance":
        """An untrained head of the right size."""
        with torch.inference_mode():
            width = backbone.features([np.zeros((1, 1, 3), np.uint8)]).shape[-1]
        return cls(width, backbone.hidden)

    @cached_property
    def digest(self) -> str:
        """Names the head by its weights, which do not change once it serves: vectors of another mean nothing to its questions."""
        told = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            told.update(name.encode() + tensor.cpu().numpy().tobytes())
        return told.hexdigest()[:16]

    def vectors(self, backbone: Backbone, features: Tensor, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
        """See `Head`."""
        return to_numpy(self.frames(self.patches(features)))

    def sought(self, backbone: Backbone, question: str) -> NDArray[np.float32]:
        """See `Head`."""
        return to_numpy(self.questions(self.about(read(backbone, question)[None]))[0])

    def patches(self, features: Tensor) -> Tensor:
        """Features [n, patches, width] to how much each patch looks like each class [n, patches, CLASSES]."""
        looks: Tensor = self.patch(self.around(self.inward(features.float())))
        return looks

    def frames(self, looks: Tensor) -> Tensor:
        """What `patches` gave to vectors [n, VECTOR]: of each group the logit of its surest patch, as what is asked about may be small.

        The last entry is 1 and takes a question's bias.
        """
        shown = (looks.softmax(-1) @ self.groups.T).amax(1)
        return nn.functional.pad(shown.logit(FAINT), (0, 1), value=1.0)

    def about(self, states: Tensor) -> Tensor:
        """What `read` gave [n, 2 * hidden] to how much each question is about each group, before softmax, and its bias [n, VECTOR]."""
        about: Tensor = self.question(states)
        return about

    def questions(self, about: Tensor) -> Tensor:
        """What `about` gave to vectors [n, VECTOR]: little but the groups that are meant counts, as every other is noise."""
        return torch.cat((self.scale * about[:, :-1].softmax(-1), about[:, -1:]), dim=-1)

    @torch.no_grad()
    def rescale(self, slope: float, offset: float) -> None:
        """Make every logit x of it slope * x + offset."""
        last = self.question[-1]
        assert isinstance(last, nn.Linear)
        self.scale.mul_(slope)
        last.weight[-1].mul_(slope)
        last.bias[-1].mul_(slope).add_(offset)


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
