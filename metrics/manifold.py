"""Fidelity and variety apart: how two sets of embeddings cover each other's neighbourhoods.

Distances are taken difference by difference and not by a matrix product: ten times slower, but the distance
of a pair is then the same to the last bit wherever it is computed, and so are the ties that these counts
turn on. Only ``_ROWS`` rows of the distance matrix exist at once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 1024


class PrecisionRecall(NamedTuple):
    """Scalars float64 in [0, 1]."""

    precision: Tensor
    recall: Tensor


class DensityCoverage(NamedTuple):
    """Scalars float64; density is >= 0 and may exceed 1, coverage is in [0, 1]."""

    density: Tensor
    coverage: Tensor


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, Eq. 2).

    Precision is the share of generated images inside the ball of some real image, whose radius is the
    distance to its k-th nearest other real image; recall is the same with the sets exchanged.

    Args:
        real: (N, D).
        fake: (M, D).
        k: neighbours; 3 as published, with 50 000 images in each set.

    Raises:
        ValueError: other widths, or not more than ``k`` images in a set.
    """
    precise, recalled = precision_recall_values(real, fake, k)
    return PrecisionRecall(precise.mean(), recalled.mean())


def precision_recall_values(real: Tensor, fake: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """What ``precision_recall`` averages, image by image: (M,) over generated and (N,) over real ones, 0 or 1."""
    real, fake = _checked(real, fake, k)
    return _inside(fake, real, k), _inside(real, fake, k)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020).

    With the ball of each real image as above: density is the number of balls around a generated image, in
    units of k, so that one outlier with a large ball counts little; coverage is the share of real images
    whose ball holds a generated one. Balls are open, as in the authors' code: for equal sets without ties
    the density is exactly 1. Unlike recall, both ignore outliers among the generated images.

    Args:
        real: (N, D).
        fake: (M, D).
        k: neighbours; 5 as published.

    Raises:
        ValueError: other widths, or not more than ``k`` images in a set.
    """
    dense, covered = density_coverage_values(real, fake, k)
    return DensityCoverage(dense.mean(), covered.mean())


def density_coverage_values(real: Tensor, fake: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """What ``density_coverage`` averages, image by image: (M,) over generated and (N,) over real ones."""
    real, fake = _checked(real, fake, k)
    radii = _radii(real, k)
    balls, nearest = [], torch.full_like(radii, torch.inf)
    for distances in _distances(fake, real):
        balls.append((distances < radii).sum(1).double() / k)
        nearest = torch.minimum(nearest, distances.amin(0))
    return torch.cat(balls), (nearest < radii).double()


def _inside(x: Tensor, centres: Tensor, k: int) -> Tensor:
    """(N,) 1 for each of ``x`` inside a closed ball of ``centres``, else 0."""
    radii = _radii(centres, k)
    return torch.cat([(distances <= radii).any(1) for distances in _distances(x, centres)]).double()


def _radii(x: Tensor, k: int) -> Tensor:
    """(N,) distance of each row to its k-th nearest other row; the nearest of all is the row itself."""
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for distances in _distances(x, x)])


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    for part in x.split(_ROWS):
        yield torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist")


def _checked(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) <= k:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"Neighbours need two (N, D) of one D and more than {k} images in each, got {shapes}.")
    return real.detach().double(), fake.detach().double()
