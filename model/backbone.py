"""A vision-language model from transformers, used as it is: LLaVA-OneVision (SigLIP + projector + Qwen2)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, Cache, LlavaOnevisionForConditionalGeneration
from transformers.image_processing_utils import BaseImageProcessor

from model.images import normalise, resize
from model.prompt import prompt
from model.spec import ModelSpec

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

Channels = tuple[Sequence[float], Sequence[float]]
SIGLIP: Channels = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def rotate(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `keys` [..., tokens, head_dim]; with `-sin` it is undone. Computed in at least float32."""
    half = keys.shape[-1] // 2
    wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
    turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos + turned * sin).to(keys.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a model was trained to be used; a `longwatch.json` beside its weights, or these defaults of the paper."""

    live: int = 64  # carriers in a camera's live memory (M)
    budget: int = 128  # carriers that an answer looks at
    evidence_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) whose attention is the evidence; none: all

    @classmethod
    def load(cls, folder: Path) -> "Habits":
        """Read a model folder's habits. Raises TypeError on keys it does not know."""
        file = folder / "longwatch.json"
        if not file.is_file():
            return cls()
        told = json.loads(file.read_text())
        return cls(**told | {"evidence_heads": tuple(map(tuple, told.get("evidence_heads", ())))})

    def save(self, folder: Path) -> None:
        """Write them beside the weights."""
        (folder / "longwatch.json").write_text(json.dumps(asdict(self), indent=1) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _settings(config: dict[Any, Any]) -> dict[str, Any]:
    """A configuration without what says nothing of the arithmetic: names, versions, and how it is run."""
    kept = {k: v for k, v in config.items() if k not in UNTOLD and not str(k).startswith("_")}
    return {k: _settings(v) if isinstance(v, dict) else v for k, v in kept.items()}


class Backbone:
    """The parts of a model that VideoScan needs, each a short call into transformers."""

    def __init__(
        self, model: LlavaOnevisionForConditionalGeneration, tokenizer: Any, habits: "Habits | None" = None, channels: Channels = SIGLIP
    ) -> None:
        self.net = model
        self.tokenizer = tokenizer
        self.habits = habits or Habits()
        self.config = model.config.text_config
        self.vision = model.config.vision_config
        self.mean, self.std = (torch.tensor(each, device=model.device) for each in channels)  # of the pictures' channels

    @classmethod
    def load(cls, name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Backbone":
        """Load by Hugging Face name or folder. Only safetensors are read.

        Attention is computed eagerly, because the evidence of an answer is its attention.
        """
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(
            name, dtype=dtype, attn_implementation="eager", use_safetensors=True, device_map=None
        )
        pictures, _ = BaseImageProcessor.get_image_processor_dict(name)
        channels = (pictures["image_mean"], pictures["image_std"])
        return cls(model.eval().requires_grad_(False).to(device), AutoTokenizer.from_pretrained(name), Habits.load(Path(name)), channels)

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
    def head_dim(self) -> int:
        """Size of one attention head."""
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads)

    @cached_property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a frame after projection and 2x2 pooling."""
        side = -(-(int(self.vision.image_size) // int(self.vision.patch_size)) // 2)
        return side * side

    @cached_property
    def spec(self) -> ModelSpec:
        """This model's carriers, described."""
        weights = xxhash.xxh3_128()
        for name, tensor in sorted(self.net.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        settings = json.dumps(_settings(self.net.config.to_dict()), sort_keys=True, default=str)
        words = json.dumps([sorted(self.tokenizer.get_vocab().items()), str(self.tokenizer.chat_template), self.prefix])
        rope = getattr(self.config, "rope_parameters", None) or {}
        return ModelSpec(
            backbone=f"{self.net.config.model_type}-{weights.hexdigest()[:16]}-{_digest(settings)}",
            dtype=str(self.dtype).removeprefix("torch."),
            layers=self.config.num_hidden_layers,
            kv_heads=self.config.num_key_value_heads,
            head_dim=self.head_dim,
            hidden=self.config.hidden_size,
            tokens_per_frame=self.tokens_per_frame,
            rope_theta=float(rope.get("rope_theta", getattr(self.config, "rope_theta", 10_000.0))),
            preprocessing=f"{self.vision.image_size}:{self.mean.tolist()}:{self.std.tolist()}",
            prompt=_digest(words),
        )

    # Prompts

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The tokens before the frames."""
        return tuple(prompt(self.tokenizer, "?")[0])

    def suffix(self, question: str) -> list[int]:
        """The tokens of a question, from behind the frames to where the answer begins."""
        return prompt(self.tokenizer, question)[1]

    def words(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens."""
        return str(self.tokenizer.decode([t for t in tokens if t != self.tokenizer.eos_token_id])).strip()

    # Network

    def see(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Visual tokens [frames, tokens_per_frame, hidden] of RGB pictures of any sizes."""
        side = self.vision.image_size
        squares = torch.cat([resize(torch.tensor(image, device=self.device)[None], side) for image in images])
        return self.project(self.look(normalise(squares, self.mean, self.std, self.dtype)))

    def look(self, pixels: Tensor) -> Tensor:
        """The vision tower: [frames, 3, side, side] to features [frames, patches, width]."""
        tower = self.net.model.vision_tower(pixels, output_hidden_states=True)
        features: Tensor = tower.hidden_states[self.net.config.vision_feature_layer]
        return features

    def project(self, features: Tensor) -> Tensor:
        """Projector and 2x2 pooling: features [frames, patches, width] to tokens [frames, tokens_per_frame, hidden]."""
        pooled: Tensor = self.net.model.apply_pooling(self.net.model.multi_modal_projector(features))
        return pooled

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings of text tokens."""
        embeddings: Tensor = self.net.get_input_embeddings()(tokens)
        return embeddings

    def run(self, embeddings: Tensor, positions: Tensor, cache: Cache, mask: Tensor | None, *, attentions: bool = False) -> Any:
        """One pass of the language model.

        embeddings [batch, tokens, hidden], positions [batch, tokens], mask [batch, tokens, cached + tokens] true where
        attention is allowed; none only where the attention knows what that means (`model.fast`). Returns transformers'
        output; `cache` grows by the new keys and values.
        """
        bias = None if mask is None else self._bias(mask)
        return self.net.model.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            past_key_values=cache,
            attention_mask=bias,
            use_cache=True,
            output_attentions=attentions,
        )

    def _bias(self, mask: Tensor) -> Tensor:
        bias = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(self.dtype).min)
        return bias[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the vocabulary."""
        scores: Tensor = self.net.lm_head(hidden)
        return scores

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary embedding at positions [batch, tokens]: each [batch, tokens, head_dim]."""
        probe = torch.empty(0, dtype=torch.promote_types(self.dtype, torch.float32), device=positions.device)
        cos, sin = self.net.model.language_model.rotary_emb(probe, positions)
        return cos, sin
