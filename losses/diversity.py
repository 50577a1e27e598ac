"""Terms that keep a conditional generator from ignoring its latent code.

Both take two images made from one condition with two codes. Distances are averaged over the whole batch, over all
ranks, before their ratio is taken: a ratio of means is not the mean of ratios.
"""

import torch
from torch import Tensor, distributed


def mode_seeking(x_1: Tensor, x_2: Tensor, z_1: Tensor, z_2: Tensor, eps: float = 1e-5) -> Tensor:
    """Reciprocal of the distance of images per distance of codes (Mao et al. 2019, MSGAN, as released; DRIT++).

    1 / (r + eps) with r = mean|x_2 - x_1| / mean|z_2 - z_1|: the more images differ, the less. The gradient grows as
    1 / r^2 while they grow alike, and is exactly zero where they are equal.

    Args:
        x_1: (N, C, H, W) in [-1, 1], from code ``z_1``.
        x_2: the same conditions with ``z_2``.
        z_1: (N, D) codes.
        z_2: (N, D) other codes.
        eps: added to the ratio; bounds the loss by 1 / eps.

    Returns:
        Scalar > 0, in float32 at least, under autocast too.
    """
    return 1 / (_distance_ratio(x_1, x_2, z_1, z_2) + eps)


def mode_seeking_ratio(x_1: Tensor, x_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
    """Minus the distance of images per distance of codes (Mao et al. 2019, MSGAN, the paper's form, to be minimised).

    Args:
        x_1: (N, C, H, W) in [-1, 1], from code ``z_1``.
        x_2: the same conditions with ``z_2``.
        z_1: (N, D) codes.
        z_2: (N, D) other codes.

    Returns:
        Scalar <= 0, in float32 at least, under autocast too.
    """
    return -_distance_ratio(x_1, x_2, z_1, z_2)


def _distance_ratio(x_1: Tensor, x_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
    """mean|x_2 - x_1| / mean|z_2 - z_1|, L1 as released."""
    with torch.autocast(x_1.device.type, enabled=False):
        images, codes = (_widen(b) - _widen(a) for a, b in ((x_1, x_2), (z_1, z_2)))
        distances = torch.stack((images.abs().mean(), codes.abs().mean().to(images.dtype)))
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            distances = _MeanOverRanks.apply(distances)
        return distances[0] / distances[1]


def _widen(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _MeanOverRanks(torch.autograd.Function):
    """The mean over ranks, which all hold the same number of images.

    Every rank computes the same loss from it and DDP averages their gradients, so the gradient of the mean passes as it
    is: 1 / ranks of it from each of as many equal losses.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x / distributed.get_world_size()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient
