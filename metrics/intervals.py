"""Confidence intervals: how far a number would move with other images of the same kind; bootstrap (Efron 1979)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """Both ends, in units of the statistic."""

    low: float
    high: float


def bootstrap(
    values: Tensor,
    statistic: Callable[[Tensor], Tensor] = torch.mean,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of values that are independent of each other.

    Where images share an input, as outputs of several styles do, give one value per input.

    Args:
        values: (N,), one per image or input.
        statistic: (N,) float64 to a scalar.
        level: share of repetitions that the interval should cover.
        resamples: draws of N values with replacement.
        seed: of the draws.

    Raises:
        ValueError: not (N,) with N at least 2, or a level outside (0, 1).
    """
    if values.ndim != 1:
        raise ValueError(f"Expected one value per image, (N,), got {tuple(values.shape)}.")
    _check(level, len(values))
    values, rng = values.detach().double(), torch.Generator().manual_seed(seed)
    return _ends([statistic(_redrawn(values, rng)) for _ in range(resamples)], level)


def bootstrap_sets(
    real: Tensor,
    fake: Tensor,
    statistic: Callable[[Tensor, Tensor], Tensor],
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """Interval of a statistic of two sets, such as ``frechet_distance_of_sets``, whose images are drawn anew in both.

    A redrawn set repeats images and so seems less varied: Frechet and kernel distances of redrawn sets all lie above
    that of the sets themselves. Hence the spread of the resamples is laid around the statistic, and not their
    percentiles reported. The interval is for the expectation at this number of images: the bias of a small set stays.

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        statistic: two sets to a scalar.
        level: share of repetitions that the interval should cover.
        resamples: draws; each costs one evaluation, seconds for a Frechet distance of 2048 dimensions.
        seed: of the draws.

    Raises:
        ValueError: fewer than 2 images in a set, or a level outside (0, 1).
    """
    _check(level, min(len(real), len(fake)))
    rng = torch.Generator().manual_seed(seed)
    draws = [statistic(_redrawn(real, rng), _redrawn(fake, rng)) for _ in range(resamples)]
    value, middle = float(statistic(real, fake)), float(torch.stack(draws).double().mean())
    return Interval(*(value + end - middle for end in _ends(draws, level)))


def _redrawn(x: Tensor, rng: torch.Generator) -> Tensor:
    return x[torch.randint(len(x), (len(x),), generator=rng).to(x.device)]


def _ends(draws: list[Tensor], level: float) -> Interval:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.stack(draws).double().cpu().quantile(tails).tolist()
    return Interval(low, high)


def wilson(right: int, n: int) -> Interval:
    """The 95 % score interval of a share (Wilson 1927), which is no point even where all or none are right.

    Args:
        right: how many of ``n``.
        n: independent images, 1 or more.
    """
    z2 = 1.959964**2
    share = right / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def _check(level: float, count: int) -> None:
    if count < 2:
        raise ValueError(f"A bootstrap needs at least 2 images, not {count}.")
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1, not at {level}.")
