"""Running averages of weights."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """The same module with weights of its own that no optimizer moves; parts that are shared in it stay shared."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow_(average: nn.Module, module: nn.Module, decay: float, iteration: int) -> None:
    """Move an average towards the weights: w_avg = decay w_avg + (1 - decay) w; buffers are copied.

    Early on the decay is (1 + k) / (10 + k), lower than asked for, or the initial weights would linger.

    Args:
        average: from ``frozen_copy`` of ``module``.
        module: what is trained.
        decay: share of the average that stays, in [0, 1).
        iteration: k, finished iterations.
    """
    decay = min(decay, (1 + iteration) / (10 + iteration))
    weights: list[Tensor] = list(module.parameters())
    torch._foreach_lerp_(list(average.parameters()), weights, 1 - decay)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)
