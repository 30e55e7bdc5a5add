"""Dense mode: a few frames with all their visual tokens and no carrier, read as the backbone was pre-trained to read video.

What VideoScan is measured against, and what shows that a backbone is understood before carriers change anything: the words
are those of transformers' own `generate`. It needs no carrier training. Its cost grows with the square of the frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from model.backbone import Backbone
from model.decoding import greedy
from model.videoscan import Decoded
from pipeline.core import Frame

PART = 512  # tokens read at a time: eager attention over all at once would not fit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Read:
    """A prompt with whole frames, read to where the answer begins."""

    logits: Tensor  # [words] of the answer's first token
    cache: DynamicCache
    position: int  # of the answer's first token
    attention: Tensor  # [frames] paid to each frame from there, mean over the evidence heads, or over all


@torch.inference_mode()
def decode(backbone: Backbone, question: str, frames: Sequence[Frame], *, longest: int = 48) -> Decoded:
    """Answer from whole frames of one camera in order of time, greedily, with at most `longest` tokens.

    Raises ValueError if there is no frame.
    """
    told = read(backbone, question, frames)
    tokens, sureness = greedy(backbone, told.logits, told.cache, told.position, longest)
    return Decoded(text=backbone.words(tokens), probability=sureness, attention=told.attention.cpu().numpy())


@torch.inference_mode()
def read(backbone: Backbone, question: str, frames: Sequence[Frame]) -> Read:
    """The first half of `decode`."""
    if not frames:
        raise ValueError("dense decoding takes at least one frame")
    seconds = [(frame.captured_ms - frames[0].captured_ms) / 1000 for frame in frames]
    film = backbone.tokenizer(backbone.family.written(backbone.tokenizer, seconds), add_special_tokens=False).input_ids
    suffix = backbone.suffix(question)
    ids = torch.tensor([*backbone.prefix, *film, *suffix], device=backbone.device)
    positions = backbone.family.places(ids, seconds)
    visual = ids == backbone.net.config.video_token_id
    inputs = _filled(backbone, ids, visual, backbone.see([frame.image for frame in frames]))
    parts = torch.arange(len(ids) - len(suffix), device=backbone.device).split(PART)
    cache = DynamicCache()
    for part in parts:
        backbone.run(inputs[:, part], positions[..., part], cache, _causal(part))
    rest = torch.arange(len(ids) - len(suffix), len(ids), device=backbone.device)
    out = backbone.run(inputs[:, rest], positions[..., rest], cache, _causal(rest), attentions=True)
    looks = torch.stack([layer[0, :, -1] for layer in out.attentions])[..., visual].double()  # [layers, heads, visual tokens]
    taught = backbone.habits.evidence_heads
    paid = torch.stack([looks[at] for at in taught]).mean(0) if taught else looks.mean((0, 1))
    return Read(
        logits=backbone.logits(out.last_hidden_state[0, -1]),
        cache=cache,
        position=int(positions.max()) + 1,
        attention=paid[: len(frames) * backbone.tokens_per_frame].unflatten(0, (len(frames), -1)).sum(1),
    )


def _filled(backbone: Backbone, ids: Tensor, visual: Tensor, tokens: Tensor) -> Tensor:
    """Inputs [1, n, width] of a prompt [n], the frames' visual tokens where `visual` [n] has them."""
    inputs = pad(backbone.embed(ids), (0, tokens.shape[-1] - backbone.hidden))
    inputs[visual] = backbone.family.film(tokens)
    return inputs[None]


def _causal(at: Tensor) -> Tensor:
    """Mask [1, tokens, up to the last of them]: each token sees itself and all before it."""
    return (torch.arange(int(at[-1]) + 1, device=at.device) <= at[:, None])[None]
