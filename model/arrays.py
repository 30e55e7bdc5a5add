"""Tensors of any precision as numpy arrays and back, bit for bit. numpy has no bfloat16: its bits travel as uint16."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = {"bfloat16": np.dtype(np.uint16)}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The array that holds numbers of a torch dtype, or their bits."""
    return BITS.get(name) or np.dtype(name)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """The numbers, or their bits, on the host."""
    host = tensor.cpu()
    array: NDArray[Any] = (host.view(torch.uint16) if host.dtype == torch.bfloat16 else host).numpy()
    return array


def to_tensor(array: NDArray[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor that `to_numpy` was given."""
    host = torch.from_numpy(array)
    return (host.view(dtype) if host.dtype == torch.uint16 else host).to(device, dtype)
