"""LLaVA-OneVision, and LLaVA-Video in its layout: SigLIP, a projector, 2x2 pooling, Qwen2."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.habits import Habits


class LlavaOnevision:
    """See `model.backbones.Family`."""

    deep = 0
    tower = "model.vision_tower.encoder.layers"

    def __init__(self, net: Any, habits: Habits) -> None:
        self.net = net
        vision = net.config.vision_config
        pooled = -(-int(vision.image_size // vision.patch_size) // 2)
        self.grid = (pooled, pooled)
        self.size = (vision.image_size, vision.image_size)

    def look(self, pixels: Tensor) -> Tensor:
        """The hidden states [frames, patches, width] of the layers that the configuration names, side by side."""
        states = self.net.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = self.net.config.vision_feature_layer
        chosen = states[layers] if isinstance(layers, int) else torch.cat([states[layer] for layer in layers], dim=-1)
        patches: Tensor = chosen[:, 1:] if self.net.config.vision_feature_select_strategy == "default" else chosen
        return patches

    def project(self, features: Tensor) -> Tensor:
        """Projector, then pooling."""
        pooled: Tensor = self.net.model.apply_pooling(self.net.model.multi_modal_projector(features))
        return pooled

    def offsets(self) -> Tensor:
        """One after the other, in reading order."""
        return torch.arange(self.grid[0] * self.grid[1])

    def written(self, tokenizer: Any, seconds: Sequence[float]) -> str:
        """All frames, and one token that ends the video."""
        video: str = tokenizer.convert_ids_to_tokens(self.net.config.video_token_id)
        return video * (len(seconds) * self.grid[0] * self.grid[1] + 1)

    def film(self, tokens: Tensor) -> Tensor:
        """All frames, and the learnt line break behind the last."""
        return torch.cat((tokens.flatten(0, 1), self.net.model.image_newline[None].to(tokens)))

    def places(self, ids: Tensor, seconds: Sequence[float]) -> Tensor:
        """One after the other."""
        return torch.arange(len(ids), device=ids.device)[None]
