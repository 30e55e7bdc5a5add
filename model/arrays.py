"""Tensors of any precision as numpy arrays and back, bit for bit. numpy has no bfloat16: see `pipeline.core.BFLOAT16`."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core import BFLOAT16


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The array that holds numbers of a torch dtype."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """The numbers, on the host."""
    host = tensor.cpu()
    if host.dtype == torch.bfloat16:
        return host.contiguous().view(torch.uint16).numpy().view(BFLOAT16)
    array: NDArray[Any] = host.numpy()
    return array


def to_tensor(array: NDArray[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor that `to_numpy` was given."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).to(device, dtype)
    return torch.from_numpy(array).to(device, dtype)
