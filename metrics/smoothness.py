"""How a path of images runs: in even steps, and without turning back. Distances are mean absolute differences."""

import torch
from torch import Tensor


def smoothness(path: Tensor) -> Tensor:
    """Mean step over largest step: 1 for even steps, 1 / K where one of K steps does everything.

    Args:
        path: (N, K + 1, ...), K at least 1.

    Returns:
        (N,) float64; 1 for a path that does not move.
    """
    steps = _apart(path[:, 1:], path[:, :-1])
    largest = steps.max(1).values
    return torch.where(largest > 0, steps.mean(1) / largest.clamp_min(1e-30), 1.0)


def monotonicity(path: Tensor) -> Tensor:
    """Share of steps that lead away from the beginning, or stay, and of those that lead towards the end, on average.

    Args:
        path: (N, K + 1, ...), K at least 1.

    Returns:
        (N,) float64 in [0, 1]; 1 where no step turns back.
    """
    away = _apart(path, path[:, :1]).diff(dim=1) >= 0
    towards = _apart(path, path[:, -1:]).diff(dim=1) <= 0
    return (away.double().mean(1) + towards.double().mean(1)) / 2


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """(N, K) distances."""
    return (x.double() - y.double()).abs().flatten(2).mean(2)
