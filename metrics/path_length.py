"""Perceptual path length (StyleGAN, Karras et al. 2019, Sec. 4.1): how evenly a generator turns codes into images.

The number of the paper is ``trimmed_mean(path_lengths(...))``. torchmetrics' function of that name takes all
steps at one end of the path and rescales images from 0..255, so it does not compute it.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Straight line from ``a`` (N, D) at t = 0 to ``b`` at t = 1, for mapped codes w; t is (N, 1)."""
    return a + (b - a) * t


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Great circle from ``a`` (N, D) at t = 0 to ``b`` at t = 1, for normal codes z; t is (N, 1).

    Directions as published; lengths go evenly from that of ``a`` to that of ``b``, where the authors'
    normalise them to 1, which is the same to a generator that normalises z as StyleGAN does.
    """
    length_a, length_b = (v.norm(dim=1, keepdim=True).clamp_min(1e-12) for v in (a, b))
    a, b = a / length_a, b / length_b
    along = (a * b).sum(1, keepdim=True).clamp(-1, 1)
    across = b - along * a
    across = across / across.norm(dim=1, keepdim=True).clamp_min(1e-12)
    angle = t * along.acos()
    return (a * angle.cos() + across * angle.sin()) * lerp(length_a, length_b, t)


def path_lengths(
    generate: Callable[[Tensor], Tensor],
    draw: Callable[[int, torch.Generator], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    interpolate: Callable[[Tensor, Tensor, Tensor], Tensor],
    samples: int = 100_000,
    batch_size: int = 16,
    epsilon: float = 1e-4,
    seed: int = 0,
) -> Tensor:
    """Distance of two images a step ``epsilon`` apart on the path between two codes, over epsilon squared.

    The step begins at t ~ U(0, 1). All codes are drawn first, so neither the batch size nor the device matters.

    Args:
        generate: codes (N, D) to images, on whatever device it likes; deterministic, any noise input fixed.
        draw: (n, generator) to codes (n, D); ``LatentSpec.draw``, followed by the mapping network for w.
        distance: two batches of images to (N,), squared in nature as LPIPS (VGG-16) is.
        interpolate: ``slerp`` for z, ``lerp`` for w.
        samples: number of paths.
        batch_size: paths per call of ``generate``, twice.
        epsilon: step, as a share of the path.
        seed: of codes and positions.

    Returns:
        (samples,) float64, in units of ``distance``.
    """
    rng = torch.Generator().manual_seed(seed)
    starts, ends, ts = draw(samples, rng), draw(samples, rng), torch.rand(samples, 1, generator=rng)
    values = []
    with torch.no_grad():
        for a, b, t in zip(*(v.split(batch_size) for v in (starts, ends, ts)), strict=True):
            # In float64, since the two codes of a step agree in their first four digits.
            a, b, t, kind = a.double(), b.double(), t.to(a.device).double(), a.dtype
            here, there = (interpolate(a, b, t + step).to(kind) for step in (0.0, epsilon))
            values.append(distance(generate(here), generate(there)).double() / epsilon**2)
    return torch.cat(values)


def trimmed_mean(values: Tensor, lower: float = 0.01, upper: float = 0.99) -> Tensor:
    """Mean of the values between two quantiles, as published: both bounds rounded outwards and included.

    Args:
        values: (N,), N at least 1.
        lower: quantile below which values are left out.
        upper: quantile above which values are left out.

    Returns:
        Scalar float64.
    """
    values = values.double()
    low = values.quantile(lower, interpolation="lower")
    high = values.quantile(upper, interpolation="higher")
    return values[(values >= low) & (values <= high)].mean()
