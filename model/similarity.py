"""Relevance without training, after ReKV (arXiv 2503.00540): how a question's queries meet a frame's keys.

Of a frame the mean of its kept visual tokens' keys, of a question the mean of its words' queries, both before rotary embedding, so
that nothing depends on where they stand, and both from the middle half of the layers, which tell best what is meant. Ours is how
they become short: what all words have in common is taken off, and of the rest the directions are kept in which queries of words
differ most. The product, well below zero, is the logit: it orders frames, and calls none of them relevant.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize, pad

from model.arrays import to_numpy, to_tensor
from model.backbone import Backbone
from model.context import prefix_cache
from pipeline.core import VECTOR, Carrier

WORDS = 256  # tokens of the vocabulary, evenly spread, that show how words differ
LESS = 2.0  # taken off the logits, which are hardly above 1 otherwise


class Similarity:
    """The head (`model.relevance.Head`) of a backbone that keeps patches and was taught nothing: all of it follows from the weights."""

    def __init__(self, backbone: Backbone) -> None:
        mixing = np.random.default_rng(0).standard_normal((VECTOR - 1, WORDS), np.float32)
        self.digest = hashlib.sha256(b"similarity-1" + mixing.tobytes()).hexdigest()[:16]
        some = torch.arange(WORDS, device=backbone.device) * len(backbone.tokenizer) // WORDS
        queries, keys = _read(backbone, some[:, None])
        self._query, self._key = queries.mean(dim=0), keys.mean(dim=0)  # of any word
        differing = queries - self._query
        # Not its singular vectors: they turn and flip with rounding, and the planes must agree.
        mixed = torch.from_numpy(mixing).to(differing) @ differing @ differing.T @ differing
        self._directions = torch.linalg.qr(mixed.T).Q
        self._size = 2 * ((keys - self._key) @ self._directions).norm(dim=-1).mean()

    @torch.inference_mode()
    def vectors(self, backbone: Backbone, features: Tensor, carriers: Sequence[Carrier]) -> NDArray[np.float32]:
        """See `Head`. A carrier without patches is like nothing."""
        keys = torch.stack([self._key if each.patches is None else _mean_key(backbone, each.patches.kv) for each in carriers])
        return _vectors((keys - self._key) @ self._directions / self._size, 1.0)

    def sought(self, backbone: Backbone, question: str) -> NDArray[np.float32]:
        """See `Head`."""
        words = backbone.tokenizer(question, add_special_tokens=False, split_special_tokens=True).input_ids
        queries, _ = _read(backbone, torch.tensor([words], device=backbone.device))
        vector: NDArray[np.float32] = _vectors(normalize((queries - self._query) @ self._directions), -LESS)[0]
        return vector


def _vectors(short: Tensor, last: float) -> NDArray[np.float32]:
    """[n, at most VECTOR - 1] to [n, VECTOR] with `last` behind."""
    array: NDArray[np.float32] = to_numpy(pad(pad(short, (0, VECTOR - 1 - short.shape[1])), (0, 1), value=last))
    return array


def _middle(backbone: Backbone) -> slice:
    layers = backbone.spec.layers
    return slice(layers // 4, layers - layers // 4)


def _mean_key(backbone: Backbone, kv: NDArray[np.generic]) -> Tensor:
    """Of patches [layers, 2, kv_heads, patches, head_dim] the mean key [width]."""
    return to_tensor(np.ascontiguousarray(kv[_middle(backbone), 0]), backbone.device, torch.float32).mean(dim=2).flatten()


@torch.inference_mode()
def _read(backbone: Backbone, words: Tensor) -> tuple[Tensor, Tensor]:
    """The mean query and key of words [batch, n] read behind the prompt's opening, before rotary embedding: each [batch, width].

    Several heads of queries meet one of keys: theirs are taken together.
    """
    batch, behind = words.shape[0], len(backbone.prefix)
    cache = prefix_cache(backbone, 1)
    cache.batch_repeat_interleave(batch)
    positions = torch.arange(behind, behind + words.shape[1], device=words.device).expand(batch, -1)
    network = backbone.net.model.language_model
    read = network(
        inputs_embeds=backbone.embed(words), position_ids=positions, past_key_values=cache, use_cache=True, output_hidden_states=True
    )
    queries, keys = [], []
    for layer, state in list(zip(network.layers, read.hidden_states, strict=False))[_middle(backbone)]:  # what each layer is given
        attention, given = layer.self_attn, layer.input_layernorm(state)
        query, key = (project(given).unflatten(-1, (-1, backbone.head_dim)) for project in (attention.q_proj, attention.k_proj))
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        queries.append(query.unflatten(2, (backbone.spec.kv_heads, -1)).float().mean(dim=(1, 3)))
        keys.append(key.float().mean(dim=1))
    return torch.stack(queries, dim=1).flatten(1), torch.stack(keys, dim=1).flatten(1)
