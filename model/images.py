"""Pictures to what a vision tower takes: the resize and normalisation of transformers' image processors, on tensors."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Squash pictures [n, height, width, 3] uint8 to [n, 3, *size] uint8 (bicubic, antialiased, as trained); a number makes a square."""
    planes = images.permute(0, 3, 1, 2).float()
    pair = (size, size) if isinstance(size, int) else size
    return interpolate(planes, pair, mode="bicubic", antialias=True).round_().clamp_(0, 255).to(torch.uint8)


def normalise(squashed: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale uint8 [n, 3, height, width] to the tower's range, in at least float32; `mean` and `std` are per channel."""
    wide = torch.promote_types(dtype, torch.float32)
    return (((squashed.to(wide) / 255) - mean.to(wide)[:, None, None]) / std.to(wide)[:, None, None]).to(dtype)
