"""Frechet distance between sets of images (FID, Heusel et al. 2017), given what a network saw in them."""

import torch
from torch import Tensor
from torchmetrics import Metric


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of two Gaussians (Heusel et al. 2017, Eq. 6).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is that of the symmetric
    (A C2 A)^(1/2) with A = C1^(1/2): faster than the eigenvalues of C1 C2, and never complex.

    Args:
        mean1: (D,).
        cov1: (D, D), symmetric positive semi-definite; fewer images than D are fine.
        mean2: (D,).
        cov2: (D, D).

    Returns:
        Scalar float64 >= 0, in squared units of the embedding.

    Raises:
        ValueError: the shapes do not match, or a value is NaN or infinite.
    """
    d = len(mean1)
    if not mean1.shape == mean2.shape == (d,) or not cov1.shape == cov2.shape == (d, d):
        shapes = [tuple(v.shape) for v in (mean1, cov1, mean2, cov2)]
        raise ValueError(f"Expected means (D,) and covariances (D, D) of one D, got {shapes}.")
    mean1, cov1, mean2, cov2 = (v.detach().double() for v in (mean1, cov1, mean2, cov2))
    if not torch.stack([v.isfinite().all() for v in (mean1, cov1, mean2, cov2)]).all():
        raise ValueError("The embeddings hold NaN or infinity: look for images that are not finite.")
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace
    return distance.clamp_min(0)  # rounding leaves about -1e-12 of equal sets


def moments(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D), float64, of (N, D).

    Raises:
        ValueError: fewer than two images.
    """
    if len(embedding) < 2:
        raise ValueError(f"A covariance needs at least 2 images, not {len(embedding)}.")
    x = embedding.detach().double()
    mean = x.mean(0)
    x = x - mean
    return mean, x.T @ x / (len(x) - 1)


def frechet_distance_of_sets(real: Tensor, fake: Tensor) -> Tensor:
    """``frechet_distance`` of the ``moments`` of two sets of embeddings.

    The bias falls about as one over the number of images, so only sets of one size are comparable.

    Args:
        real: (N, D).
        fake: (M, D).

    Returns:
        Scalar float64 >= 0.

    Raises:
        ValueError: fewer than two images in a set, other widths, or a value that is not finite.
    """
    return frechet_distance(*moments(real), *moments(fake))


class FrechetDistance(Metric):
    """``frechet_distance_of_sets`` over batches, equal on 1 and N processes.

    The states are sums over images in float64, so neither the order, nor the batch size, nor a rank
    without any image changes the result by more than rounding.

    Args:
        size: D, the width of the embedding.
        keep_real: ``reset`` forgets the generated images only; for real sets that never change.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    real_sum: Tensor

    def __init__(self, size: int, keep_real: bool = False) -> None:
        super().__init__()
        self.keep_real = keep_real
        for side in ("real", "fake"):
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, embedding: Tensor, real: bool) -> None:
        """Add one batch.

        Args:
            embedding: (N, D); N may be 0.
            real: which of the two sets it belongs to.

        Raises:
            ValueError: not (N, D).
        """
        size = len(self.real_sum)
        if embedding.ndim != 2 or embedding.shape[1] != size:
            raise ValueError(f"Expected embeddings (N, {size}), got {tuple(embedding.shape)}.")
        side = "real" if real else "fake"
        x = embedding.detach().double()
        for name, more in (("count", len(x)), ("sum", x.sum(0)), ("outer", x.T @ x)):
            setattr(self, f"{side}_{name}", getattr(self, f"{side}_{name}") + more)

    def compute(self) -> Tensor:
        """The distance over all images of all ranks: scalar float64.

        Raises:
            ValueError: fewer than two images in a set.
        """
        return frechet_distance(*self._moments("real"), *self._moments("fake"))

    def reset(self) -> None:
        """Forget the images; with ``keep_real`` the generated ones only."""
        kept = {name: getattr(self, name) for name in self._defaults if self.keep_real and name.startswith("real")}
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)

    def _moments(self, side: str) -> tuple[Tensor, Tensor]:
        count, total, outer = (getattr(self, f"{side}_{name}") for name in ("count", "sum", "outer"))
        if count < 2:
            raise ValueError(f"The Frechet distance needs at least 2 {side} images, not {int(count)}.")
        mean = total / count
        return mean, (outer - count * mean.outer(mean)) / (count - 1)
