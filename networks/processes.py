"""What processes that train together must know of each other."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed import all_gather, all_reduce, get_rank, get_world_size, is_available, is_initialized


def processes() -> int:
    """How many processes train together."""
    return get_world_size() if is_available() and is_initialized() else 1


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of what each process holds, the same shape; gradients go back to all of them."""
    return _Sum.apply(x) / processes() if processes() > 1 else x


def rows_of_all(x: Tensor) -> Tensor:
    """Rows of all processes, which hold as many each: (N, ...) to (processes N, ...); gradients go back to all of them.

    For objectives of a batch that are no mean over its images. Each process computes the whole objective, so that the
    gradients, which are averaged over processes later, are those of one process with the whole batch.
    """
    return _Rows.apply(x) if processes() > 1 else x


class _Sum(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class _Rows(torch.autograd.Function):
    """Rows of all processes; a process's rows get the sum of all gradients towards them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(processes())]
        all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient).chunk(processes())[get_rank()]
