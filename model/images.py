"""Pictures to what a vision tower takes: the resize and normalisation of LLaVA-OneVision's video processor, on tensors."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize(images: Tensor, side: int) -> Tensor:
    """Squash pictures [n, height, width, 3] uint8 to squares [n, 3, side, side] uint8 (bicubic, antialiased, as trained)."""
    planes = images.permute(0, 3, 1, 2).float()
    return interpolate(planes, (side, side), mode="bicubic", antialias=True).round_().clamp_(0, 255).to(torch.uint8)


def normalise(squares: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale uint8 [n, 3, side, side] to the tower's range; `mean` and `std` are per channel."""
    return ((squares.to(dtype) / 255) - mean.to(dtype)[:, None, None]) / std.to(dtype)[:, None, None]
