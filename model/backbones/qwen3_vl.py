"""Qwen3-VL: as Qwen2.5-VL, with features of three of the tower's layers added behind the first layers of the language model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.backbones.qwen2_5_vl import Qwen25VL
from model.habits import Habits


class Qwen3VL(Qwen25VL):
    """See `model.backbones.Family`. In whole videos each frame is told its time in words."""

    def __init__(self, net: Any, habits: Habits) -> None:
        super().__init__(net, habits)
        self.deep = len(self.vision.deepstack_visual_indexes)

    def _tokens(self, seen: Any) -> Tensor:
        return torch.cat((seen.pooler_output, *seen.deepstack_features), dim=-1)

    def written(self, tokenizer: Any, seconds: Sequence[float]) -> str:
        """Each frame behind its time, in brackets of its own."""
        config = self.net.config
        ids = (config.vision_start_token_id, config.video_token_id, config.vision_end_token_id)
        opening, video, closing = tokenizer.convert_ids_to_tokens(ids)
        frame = opening + video * (self.grid[0] * self.grid[1]) + closing
        return "".join(f"<{second:.1f} seconds>{frame}" for second in seconds)

    def places(self, ids: Tensor, seconds: Sequence[float]) -> Tensor:
        """As transformers has them: time is told in words, not by position."""
        return self._places(ids, len(seconds))
