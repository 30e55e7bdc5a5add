"""The processes that train together, if several do: torch.distributed where it was set up, and one process alone otherwise."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def place() -> tuple[int, int]:
    """Which worker this is, and of how many."""
    together = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)


def share_gradients(weights: Sequence[Tensor]) -> None:
    """Give every worker the mean of all workers' gradients, in one message."""
    workers = place()[1]
    if workers == 1:
        return
    flat = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])
    distributed.all_reduce(flat)
    for weight, mean in zip(weights, (flat / workers).split([w.numel() for w in weights]), strict=True):
        weight.grad = mean.view_as(weight)


def gather(number: float, device: torch.device) -> list[float]:
    """Every worker's number, in order; exact below 2^53 where the device knows float64."""
    mine = torch.tensor([number], dtype=torch.float64, device=device)
    workers = place()[1]
    if workers == 1:
        return [number]
    all_of_them = [torch.empty_like(mine) for _ in range(workers)]
    distributed.all_gather(all_of_them, mine)
    return [float(each) for each in all_of_them]
