"""Running averages of weights."""

import copy
from itertools import compress
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """The same module with weights of its own that no optimizer moves; parts that are shared in it stay shared."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow_(average: nn.Module, module: nn.Module, decay: float, iteration: int) -> None:
    """Move an average towards the weights: w_avg = decay w_avg + (1 - decay) w; counters are copied.

    Running statistics of batch normalisation are averaged as weights are: those of the latest weights do not fit
    averaged ones, which cost UFDN 3 dB. Early on the decay is (1 + k) / (10 + k), lower than asked for, or the initial
    weights would linger.

    Args:
        average: from ``frozen_copy`` of ``module``.
        module: what is trained.
        decay: share of the average that stays, in [0, 1).
        iteration: k, finished iterations.
    """
    decay = min(decay, (1 + iteration) / (10 + iteration))
    mine: list[Tensor] = [*average.parameters(), *average.buffers()]
    theirs: list[Tensor] = [*module.parameters(), *module.buffers()]
    real = [tensor.is_floating_point() for tensor in theirs]
    torch._foreach_lerp_([*compress(mine, real)], [*compress(theirs, real)], 1 - decay)
    for ours, counter, averaged in zip(mine, theirs, real, strict=True):
        if not averaged:
            ours.copy_(counter)
