"""Qwen2.5-VL: a tower for pictures of any size with 2x2 merging, and a Qwen2 that turns by time, height and width (M-RoPE)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.habits import Habits


class Qwen25VL:
    """See `model.backbones.Family`.

    The tower takes two pictures at a time from a video. A frame is given twice, as transformers does with a still picture, so
    that every frame has its own tokens and can be forgotten alone.
    """

    deep = 0
    tower = "model.visual.blocks"

    def __init__(self, net: Any, habits: Habits) -> None:
        self.net = net
        self.vision = net.config.vision_config
        self.grid = habits.grid
        token = self.vision.patch_size * self.vision.spatial_merge_size
        self.size = (self.grid[0] * token, self.grid[1] * token)

    def look(self, pixels: Tensor) -> Tensor:
        """Tower and merger in one: visual tokens [frames, tokens, width]."""
        seen = self.net.model.visual(self._patches(pixels), grid_thw=self._grid(1, pixels.device).expand(len(pixels), -1))
        tokens: Tensor = self._tokens(seen).unflatten(0, (len(pixels), -1))
        return tokens

    def _tokens(self, seen: Any) -> Tensor:
        tokens: Tensor = seen.pooler_output
        return tokens

    def project(self, features: Tensor) -> Tensor:
        """Nothing is left to do."""
        return features

    def offsets(self) -> Tensor:
        """All at one time, by row and column, as a still picture has them."""
        places: Tensor = self.net.model.get_vision_position_ids(0, self._grid(1, None)[0], 1, self.vision.spatial_merge_size)
        return places[:, None]

    def written(self, tokenizer: Any, seconds: Sequence[float]) -> str:
        """All frames, one after the other."""
        video: str = tokenizer.convert_ids_to_tokens(self.net.config.video_token_id)
        return video * (len(seconds) * self.grid[0] * self.grid[1])

    def film(self, tokens: Tensor) -> Tensor:
        """All frames, one after the other."""
        return tokens.flatten(0, 1)

    def places(self, ids: Tensor, seconds: Sequence[float]) -> Tensor:
        """As transformers has them for one video with an even pace."""
        pace = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else 1.0
        return self._places(ids, len(seconds), second_per_grid_ts=[pace])

    def _places(self, ids: Tensor, frames: int, **pace: Any) -> Tensor:
        kinds = (ids == self.net.config.video_token_id).int() * 2  # transformers' number for video
        places, _ = self.net.model.get_rope_index(ids[None], kinds[None], video_grid_thw=self._grid(frames, ids.device), **pace)
        found: Tensor = places
        return found

    def _grid(self, frames: int, device: torch.device | None) -> Tensor:
        """[1, 3]: times, and patches down and across."""
        merge = self.vision.spatial_merge_size
        return torch.tensor([[frames, self.grid[0] * merge, self.grid[1] * merge]], device=device)

    def _patches(self, pixels: Tensor) -> Tensor:
        """Pictures cut as the tower reads them: merged patches together, each with its channels, times, rows and columns."""
        merge, patch, times = self.vision.spatial_merge_size, self.vision.patch_size, self.vision.temporal_patch_size
        cut: Tensor = pixels.unflatten(3, (self.grid[1], merge, patch)).unflatten(2, (self.grid[0], merge, patch))
        ordered = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [frames, rows, columns, merge, merge, channels, patch, patch]
        twice = ordered[..., None, :, :].expand(*ordered.shape[:6], times, patch, patch)
        return twice.flatten(5).flatten(0, 4)
