"""A vision-language model from transformers, used as it is: the seam between VideoScan and any backbone."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, Cache
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

from model.adapter import Adapter
from model.backbones import UnknownBackbone, family
from model.habits import Habits as Habits
from model.images import normalise, resize
from model.patches import TooManyPatches, most_kept
from model.prompt import prompt
from model.spec import ModelSpec, described, identity
from model.training_free import untaught
from pipeline.core import Mode

Channels = tuple[Sequence[float], Sequence[float]]
SIGLIP: Channels = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def rotate(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `keys` [..., tokens, head_dim]; with `-sin` it is undone. Computed in at least float32."""
    half = keys.shape[-1] // 2
    wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
    turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos + turned * sin).to(keys.dtype)


class Backbone:
    """The parts of a model that VideoScan needs, each a short call into transformers.

    Visual tokens are [..., width], where width is `hidden`, or a multiple of it: see `model.backbones.Family`. Positions are
    [batch, tokens], or [3, batch, tokens] where a model turns by time, height and width. Raises UnknownBackbone.
    """

    def __init__(
        self, model: Any, tokenizer: Any, habits: Habits | None = None, channels: Channels = SIGLIP, identity: str | None = None
    ) -> None:
        self.net = model
        self.tokenizer = tokenizer
        self.habits = habits or Habits()
        self._identity = identity
        self.family = family(model.config.model_type)(model, self.habits)
        self.config = model.config.text_config
        self.vision = model.config.vision_config
        self.channels = channels
        self.mean, self.std = (torch.tensor(each, device=model.device) for each in channels)  # of the pictures' channels

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        adapter: Path | None = None,
        mode: Mode | None = None,
    ) -> "Backbone":
        """Load by Hugging Face name or folder, with an adapter of `longwatch train` merged in. Only safetensors are read.

        Without a `mode`, a model that was never taught carriers is used without training (`model.training_free`); who is about to
        teach it asks for "carriers". Raises UnknownBackbone, before any weights are fetched, for what is not there or not known,
        and BadAdapter.

        Attention is computed eagerly, because the evidence of an answer is its attention.
        """
        family(_kind(name))
        added = Adapter.open(adapter) if adapter else None
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype=added.dtype if added else dtype, attn_implementation="eager", use_safetensors=True, device_map=None
        )
        told = added.merge(model, dtype) if added else None
        pictures, _ = BaseImageProcessor.get_image_processor_dict(name)
        channels = (pictures["image_mean"], pictures["image_std"])
        tokenizer = AutoTokenizer.from_pretrained(name)
        templates, _ = ProcessorMixin.get_processor_dict(name)  # of several templates, the one that knows of pictures
        tokenizer.chat_template = templates.get("chat_template") or tokenizer.chat_template
        net = model.eval().requires_grad_(False).to(device)
        habits = Habits.load(adapter or Path(name))  # an adapter is used as it was trained
        loaded = cls(net, tokenizer, habits, channels, told)
        return loaded if habits or mode == "carriers" else cls(net, tokenizer, untaught(loaded), channels, told)

    def used(self, **habits: object) -> "Backbone":
        """The same model, to be used otherwise. Raises ValueError as `Habits` does."""
        return Backbone(self.net, self.tokenizer, replace(self.habits, **habits), self.channels, self._identity)  # type: ignore[arg-type]

    @cached_property
    def identity(self) -> str:
        """Names the weights: see `model.spec.identity`; with an adapter, the adapter too."""
        return self._identity or identity(self.net)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.net.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        dtype: torch.dtype = self.net.dtype
        return dtype

    @property
    def hidden(self) -> int:
        """Width of the language model."""
        return int(self.config.hidden_size)

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return int(getattr(self.config, "head_dim", None) or self.hidden // self.config.num_attention_heads)

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a frame."""
        return self.family.grid[0] * self.family.grid[1]

    @cached_property
    def patches(self) -> int:
        """Visual tokens of a frame that are kept beside its carrier. Raises TooManyPatches."""
        kept = self.tokens_per_frame if self.habits.patches == "all" else self.habits.patches
        if kept > self.tokens_per_frame:
            raise TooManyPatches(f"{kept} patches cannot be kept of a frame that has {self.tokens_per_frame}: use fewer, or all")
        if kept > self.most_patches:
            raise TooManyPatches(f"{kept} patches a frame are too large to be kept: use at most {self.most_patches} in longwatch.json")
        return kept

    @property
    def chooses(self) -> bool:
        """Whether some of a frame's patches are kept and others not, which its attention decides."""
        return 0 < self.patches < self.tokens_per_frame

    @property
    def most_patches(self) -> int:
        """How many patches of a frame of this model can be kept: `model.patches.most_kept`."""
        return most_kept(self.config.num_hidden_layers, self.config.num_key_value_heads, self.head_dim, self.hidden)

    @cached_property
    def block(self) -> Tensor:
        """Positions of a frame's visual tokens and its carrier from where the frame begins: [size], or [3, 1, size].

        The carrier stands one behind the furthest token, on all axes alike, as a word after a picture would.
        """
        offsets = self.family.offsets().to(self.device)
        carrier = (offsets.max() + 1).expand(*offsets.shape[:-1], 1)
        return torch.cat((offsets, carrier), dim=-1)

    @cached_property
    def frame_length(self) -> int:
        """Positions from where one frame begins to where the next does."""
        return int(self.family.offsets().max()) + 2

    @cached_property
    def spec(self) -> ModelSpec:
        """This model's carriers, described."""
        words = [sorted(self.tokenizer.get_vocab().items()), str(self.tokenizer.chat_template), self.prefix]
        size, channels = "x".join(map(str, self.family.size)), ":".join(str([*each]) for each in self.channels)
        return described(
            self.net,
            backbone=self.identity,
            words=words,
            head_dim=self.head_dim,
            tokens_per_frame=self.tokens_per_frame,
            preprocessing=f"{size}:{channels}",
            positions=self.habits.spacing,
            patches=self.patches,
            mode=self.habits.mode,
        )

    # Prompts

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The tokens before the frames."""
        return tuple(prompt(self.tokenizer, "?", self._video)[0])

    def suffix(self, question: str) -> list[int]:
        """The tokens of a question, from behind the frames to where the answer begins."""
        return prompt(self.tokenizer, question, self._video)[1]

    @property
    def _video(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.net.config.video_token_id))

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        told = self.net.generation_config.eos_token_id
        return frozenset([self.tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])]) - {None}

    def words(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens."""
        return str(self.tokenizer.decode([t for t in tokens if t not in self.ends])).strip()

    # Network

    def see(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Visual tokens [frames, tokens_per_frame, width] of RGB pictures of any sizes."""
        return self.project(self.features(images))

    def features(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """What the vision tower makes of such pictures: [frames, patches, any width]."""
        squashed = torch.cat([resize(torch.tensor(image, device=self.device)[None], self.family.size) for image in images])
        return self.look(normalise(squashed, self.mean, self.std, self.dtype))

    def look(self, pixels: Tensor) -> Tensor:
        """The vision tower: [frames, 3, height, width] to features [frames, patches, any width]."""
        return self.family.look(pixels)

    def project(self, features: Tensor) -> Tensor:
        """What lies between the tower and the language model: features to visual tokens [frames, tokens_per_frame, width]."""
        return self.family.project(features)

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings [..., hidden] of text tokens."""
        embeddings: Tensor = self.net.get_input_embeddings()(tokens)
        return embeddings

    def run(self, embeddings: Tensor, positions: Tensor, cache: Cache, mask: Tensor | None, *, attentions: bool = False) -> Any:
        """One pass of the language model.

        embeddings [batch, tokens, hidden or width], mask [batch, tokens, cached + tokens] true where attention is allowed;
        none only where the attention knows what that means (`model.fast`). Returns transformers' output; `cache` grows by the
        new keys and values.
        """
        inputs, *deep = embeddings.split(self.hidden, dim=-1)
        everywhere = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        added = {"visual_pos_masks": everywhere, "deepstack_visual_embeds": [each.flatten(0, 1) for each in deep]} if deep else {}
        bias = None if mask is None else self._bias(mask)
        return self.net.model.language_model(
            inputs_embeds=inputs,
            position_ids=positions,
            past_key_values=cache,
            attention_mask=bias,
            use_cache=True,
            output_attentions=attentions,
            **added,
        )

    def _bias(self, mask: Tensor) -> Tensor:
        bias = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(self.dtype).min)
        return bias[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the vocabulary."""
        scores: Tensor = self.net.lm_head(hidden)
        return scores

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary embedding at positions: each [batch, tokens, head_dim]."""
        probe = torch.empty(0, dtype=torch.promote_types(self.dtype, torch.float32), device=positions.device)
        cos, sin = self.net.model.language_model.rotary_emb(probe, positions)
        return cos, sin


def _kind(name: str | Path) -> str:
    """The model's type, as its configuration has it."""
    try:
        return str(AutoConfig.from_pretrained(name).model_type)
    except (OSError, ValueError) as error:  # not there; or nothing that transformers knows
        raise UnknownBackbone(f"model {name}: {str(error).splitlines()[0]}") from error
