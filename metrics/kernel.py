"""Kernel distance between sets of images (KID, Binkowski et al. 2018), given what a network saw in them."""

import torch
from torch import Tensor

_ROWS = 4096  # of the kernel matrix held at once


def kernel_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x.y / D + 1)^3 (Binkowski et al. 2018).

    On all images at once and hence without any draw; sets may differ in size. Unbiased, so it is comparable
    between sizes, and slightly negative for equal distributions. torchmetrics' ``poly_mmd`` wants equal sizes.

    Args:
        real: (N, D).
        fake: (M, D).

    Returns:
        Scalar float64.

    Raises:
        ValueError: fewer than two images in a set, or other widths.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"The kernel distance needs two (N, D) of one D and at least 2 images, got {shapes}.")
    x, y = real.detach().double(), fake.detach().double()
    return _mean_within(x) + _mean_within(y) - 2 * _sum(x, y) / (len(x) * len(y))


def kernel_distance_subsets(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ``kernel_distance`` over random subsets, the published protocol.

    Subsets are drawn without replacement within each, by an own generator: the result is a function of the
    features in their order and of ``seed``. The deviation is that of one subset, not of the mean.

    Args:
        real: (N, D).
        fake: (M, D).
        subsets: number of pairs of subsets.
        subset_size: images in each.
        seed: of the draws.

    Returns:
        Mean and (population) standard deviation, scalars float64.

    Raises:
        ValueError: a set is smaller than a subset.
    """
    if min(len(real), len(fake)) < subset_size:
        raise ValueError(
            f"Subsets of {subset_size} images need as many in both sets, not {len(real)} and {len(fake)}: "
            "lower subset_size or use kernel_distance."
        )
    rng = torch.Generator().manual_seed(seed)

    def draw(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=rng)[:subset_size].to(x.device)]

    values = torch.stack([kernel_distance(draw(real), draw(fake)) for _ in range(subsets)])
    return values.mean(), values.std(correction=0)


def _mean_within(x: Tensor) -> Tensor:
    """Mean kernel over ordered pairs of different images."""
    diagonal = (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()
    return (_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))


def _sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([(part @ y.T / x.shape[1] + 1).pow(3).sum() for part in x.split(_ROWS)]).sum()
